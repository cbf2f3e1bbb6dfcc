"""MLflow's own tracking server, on loopback, in this process: it can be down, and up again."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import threading
import warnings
from typing import TYPE_CHECKING

from werkzeug.serving import make_server

if TYPE_CHECKING:
    from pathlib import Path

    from werkzeug.serving import BaseWSGIServer


class MlflowServer:
    """The application that `mlflow server` serves, with one database for this process's life.

    Attributes:
        uri: its address, which stays the same.
    """

    def __init__(self, database_uri: str, artifacts: Path) -> None:
        """Take a port; nobody answers there yet."""
        from mlflow.server import constants

        with warnings.catch_warnings(), contextlib.suppress(ImportError):
            # A handler tries to import this, with a part of Starlette's that warns, and can do
            # without.
            warnings.simplefilter("ignore")
            importlib.import_module("mlflow.server.auth")

        os.environ[constants.BACKEND_STORE_URI_ENV_VAR] = database_uri
        os.environ[constants.ARTIFACT_ROOT_ENV_VAR] = "mlflow-artifacts:/"
        os.environ[constants.ARTIFACTS_DESTINATION_ENV_VAR] = artifacts.as_uri()
        os.environ[constants.SERVE_ARTIFACTS_ENV_VAR] = "true"
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server: BaseWSGIServer | None = None
        self._port = 0
        self.start()
        self.stop()
        self.uri = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Answer from now on."""
        from mlflow.server import app

        self._server = make_server("127.0.0.1", self._port, app, threaded=True)
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Be down: connections are refused."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
