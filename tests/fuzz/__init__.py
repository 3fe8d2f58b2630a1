"""Coverage-guided fuzzing: each target takes bytes, and asserts what must hold for all of them.

``targets`` has the checks, ``corpus`` the inputs that are kept, ``engine`` runs one target under atheris, and
``make fuzz`` (``__main__``) runs all of them. The tests replay the corpus without atheris, too.
"""
