"""`python -m san_deploy` is `san`."""

from .cli import main

if __name__ == "__main__":
    main()
