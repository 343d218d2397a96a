"""`python -m rung_devcluster`."""

from rung_devcluster.cli import main

if __name__ == "__main__":
    main()
