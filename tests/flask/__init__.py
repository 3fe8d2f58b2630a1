"""Flask: our extension, and what is written for Flask-Limiter, beside Flask-Limiter itself."""
