"""`python -m ufbert`: the command line."""

from ufbert.commands.app import main

if __name__ == "__main__":
    main()
