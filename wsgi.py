"""The WSGI entry point: `gunicorn -c deploy/gunicorn.conf.py wsgi:app`. A wrong setting is one line on standard error."""

import os
import sys

from app import create_app
from app.core.config import SettingsError

try:
    app = create_app()
except SettingsError as wrong:
    print(f"Error: {wrong}", file=sys.stderr)
    # gunicorn (it sets this variable) takes 3 of a process for: to start another one would not help.
    sys.exit(3 if os.environ.get("SERVER_SOFTWARE") else 1)
