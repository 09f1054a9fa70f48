"""The stages of the command line: `steps` has them as functions, `cached` keeps what they make up to date."""
