"""`python -m clipnotes` is the command line."""
from clipnotes.cli.main import main

main()
