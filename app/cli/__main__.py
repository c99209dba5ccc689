"""`python -m app.cli` is `signalbox` where only requirements.txt is installed."""

from app.cli.commands import main

if __name__ == "__main__":
    main()
