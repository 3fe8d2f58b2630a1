"""Coverage-guided fuzzing: each target takes bytes, and asserts what must hold for all of them.

``targets`` has the checks, and ``corpus`` the inputs that are kept. ``engine`` runs one target under
atheris, and ``make fuzz`` (``__main__``) all of them. The tests check kept inputs without atheris, too.
"""
