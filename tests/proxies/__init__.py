"""Real proxies in front of the service: Traefik, nginx, Caddy, Envoy."""
