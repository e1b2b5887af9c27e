"""CellstoreApp: the Jupyter server extension. Traits in, deployments out.

    load      settings and routes; nothing is opened
    start     the loop runs and the port is bound: open the default store, tell kernels where we are; then, one by one, the
              other stores that have functions, whose jobs and crons wait for no caller
    failure   a store whose disk failed is closed, and opened again some seconds later
    stop      close every store, take the address back; Jupyter answers for a while yet, and we open none again

Kernels find us by two environment variables, which every kernel of this server inherits; the secret is new each run.
Data lie in `{root_dir}/.cellstore/<deployment>/store.db`. A store that cannot be opened is said loudly in the log, and
every request for it is answered with the reason.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
from collections.abc import Coroutine
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from jupyter_server.extension.application import ExtensionApp
from traitlets import Bool, Dict, List, TraitError, Unicode, default, validate

from cellstore.errors import CellstoreError, NotFound, Overloaded, StorageError
from cellstore.knobs import DEFAULTS, Knobs
from cellstore.server import deployment
from cellstore.server.deployment import Deployment, has_functions
from cellstore.server.identity import Doorkeeper, admin_key, known_admin_key, new_secret
from cellstore.server.jwt import Verifier
from cellstore.server.routes import routes

ENV_URL, ENV_SECRET = "CELLSTORE_SERVER_URL", "CELLSTORE_SERVER_SECRET"
WILDCARDS = ("", "0.0.0.0", "::", "localhost")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class CellstoreApp(ExtensionApp):
    """A reactive document database served by this Jupyter server."""

    name = "cellstore"
    extension_url = "/cellstore/"
    load_other_extensions = True

    allow_anonymous = Bool(
        False,
        help="Let callers without any credentials call public functions. Off: they may connect, but do nothing.",
    ).tag(config=True)
    data_dir = Unicode(
        "", help="Where the stores lie, one directory per deployment. Default: .cellstore under the server's root."
    ).tag(config=True)
    deployment_name = Unicode("default", help="The deployment clients get that name none.").tag(config=True)
    public_url = Unicode(
        "",
        help="Where clients find this server, with its base URL, as 'https://hub.example/user/ann/': addresses of files "
        "begin with it. Default: as processes of this machine find it.",
    ).tag(config=True)
    cors_allow_origins = List(
        Unicode(), help="Origins whose pages may call the HTTP function API, e.g. 'http://localhost:5173'; '*' for all."
    ).tag(config=True)
    auth_providers = List(
        Dict(),
        help="Identity providers whose JSON Web Tokens let callers use public functions. OIDC: {'domain': 'https://…', "
        "'applicationID': '…'}; own keys: {'type': 'customJwt', 'issuer': '…', 'jwks': 'https://…', 'algorithm': "
        "'RS256' or 'ES256', 'applicationID': '…'}. Needs the extra 'auth'.",
    ).tag(config=True)
    knobs = Dict(help="Limits to change, by name: {'query_time_s': 5.0}. See cellstore.knobs.").tag(config=True)

    @default("static_paths")
    def _default_static_paths(self) -> list[str]:
        """Our browser modules, found without importing the kernel half."""
        spec = importlib.util.find_spec("cellstore_kernel")
        places = [Path(place) / "static" for place in (spec.submodule_search_locations or [])] if spec else []
        return [str(place) for place in places if place.is_dir()]

    @validate("auth_providers")
    def _usable_providers(self, proposal: Any) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = proposal["value"]
        try:
            Verifier(entries)
        except ValueError as wrong:
            raise TraitError(str(wrong)) from wrong
        return entries

    @validate("knobs")
    def _known_knobs(self, proposal: Any) -> dict[str, Any]:
        changed: dict[str, Any] = proposal["value"]
        unknown = changed.keys() - {knob.name for knob in fields(Knobs)}
        if unknown:
            raise TraitError(f"there is no knob {', '.join(sorted(unknown))}; see cellstore.knobs for those there are")
        return changed

    # ── Jupyter's hooks ───────────────────────────────────────────────────────────────────────────────────────────────

    def initialize_settings(self) -> None:
        """Before routes: what exists without a loop."""
        self.limits: Knobs = replace(DEFAULTS, **self.knobs)
        self._secret = new_secret()
        self._verifier = Verifier(self.auth_providers)
        self._deployments: dict[str, Deployment] = {}
        self._opening: dict[str, asyncio.Lock] = {}
        self._is_stopping = False
        self._waking: set[asyncio.Task[None]] = set()
        self._admin_keys: dict[str, str] = {}
        self._address = ""

    def initialize_handlers(self) -> None:
        """Our routes, at the prefix and at the origin's root."""
        assert self.serverapp is not None
        web_app: Any = self.serverapp.web_app
        web_app.add_handlers(".*$", routes(web_app.settings["base_url"], self))

    async def _start_jupyter_server_extension(self, serverapp: Any) -> None:
        """The loop runs and the port is known."""
        self._is_stopping = False
        self._address = address_of(serverapp)
        os.environ[ENV_URL], os.environ[ENV_SECRET] = self._address, self._secret
        try:
            deployment = await self.deployment(self.deployment_name, may_create=True)
        except CellstoreError as error:
            self.log.error("cellstore cannot open its store and serves nothing: %s", error.message)
        else:
            self.log.info("cellstore serves %s at %scellstore/", deployment.path, self._address)
        self._wake(self._wake_the_others())

    async def _wake_the_others(self) -> None:
        """Open the stores there are that have functions: their jobs are due, and their first callers find workers."""
        for name in self.deployment_names():
            try:
                if await asyncio.to_thread(has_functions, self.directory(name) / "store.db"):
                    await self.deployment(name)
            except Exception as error:  # noqa: BLE001 — one that cannot be opened is no reason to leave the next asleep
                self.log.error("cellstore cannot open the deployment %s: %s", name, error)

    async def _wake_again(self, name: str) -> None:
        """Open a store that has failed, if another may: its jobs and crons wait for no caller, either."""
        while not self._is_stopping:
            await asyncio.sleep(deployment.REOPEN_AFTER_S)
            try:
                await self.deployment(name)
                return
            except CellstoreError as error:
                self.log.error("cellstore cannot open the deployment %s again: %s", name, error.message)

    def _wake(self, stores: Coroutine[Any, Any, None]) -> None:
        """In the background, until the server stops."""
        task = asyncio.create_task(stores)
        self._waking.add(task)
        task.add_done_callback(self._waking.discard)

    async def stop_extension(self) -> None:
        """The server shuts down: close the stores, then take back the address kernels were told."""
        self._is_stopping = True
        waking = list(getattr(self, "_waking", ()))
        for task in waking:
            task.cancel()
        await asyncio.gather(*waking, return_exceptions=True)
        deployments = list(getattr(self, "_deployments", {}).values())
        self._deployments = {}
        for ended in await asyncio.gather(*(each.stop() for each in deployments), return_exceptions=True):
            if isinstance(ended, Exception):
                self.log.error("cellstore could not close a store: %s", ended, exc_info=ended)
        if os.environ.get(ENV_SECRET) == getattr(self, "_secret", None):
            os.environ.pop(ENV_URL, None)
            os.environ.pop(ENV_SECRET, None)

    def current_activity(self) -> dict[str, Any] | None:
        """What goes on, or None: a server with connections is not idle."""
        active = {name: deployment.activity() for name, deployment in self._deployments.items()}
        return {name: what for name, what in active.items() if any(what.values())} or None

    # ── what handlers ask ─────────────────────────────────────────────────────────────────────────────────────────────

    async def deployment(self, name: str, may_create: bool = False) -> Deployment:
        """The deployment `name`, opened when it is not.

        Errors: NotFound when there is none and it may not be made; Overloaded while the server stops; StoreLocked and others
        of opening a store.
        """
        running = self._deployments.get(name)
        if running is not None and running.stands:
            return running
        if not NAME.fullmatch(name):
            raise NotFound("a deployment's name is letters, digits, - and _, at most 64", kind="deployment", name=name)
        if not may_create and name != self.deployment_name and not (self.directory(name) / "store.db").exists():
            raise NotFound(kind="deployment", name=name)
        async with self._opening.setdefault(name, asyncio.Lock()):
            running = self._deployments.get(name)
            if running is None or not running.stands:
                running = await self._opened(name)
        return running

    def deployment_names(self) -> list[str]:
        """The deployments there are, open or not."""
        there = self.directory(self.deployment_name).parent.glob("*/store.db")
        return sorted({self.deployment_name, *(path.parent.name for path in there)})

    async def _opened(self, name: str) -> Deployment:
        if self._is_stopping:
            raise Overloaded("the server is stopping: ask again when it has started", queue="server")
        url = f"{(self.public_url or self._address).rstrip('/')}/cellstore"
        url += "" if name == self.deployment_name else f"/d/{name}"
        opened = Deployment(self._place(name) / "store.db", name=name, knobs=self.limits, url=url)
        await opened.start()
        opened.on_failed = lambda: self._wake(self._wake_again(name))
        self._deployments[name] = opened
        self.admin_key(name)
        return opened

    def _place(self, name: str) -> Path:
        """The directory of a deployment, made if need be: for nobody else, as there are secrets among the data."""
        place = self.directory(name)
        try:
            place.mkdir(0o700, parents=True, exist_ok=True)
        except OSError as error:
            problem = f"no store can be kept in {place}: {error.strerror or error}; set CellstoreApp.data_dir"
            raise StorageError(problem) from error
        return place

    def doorkeeper(self, name: str) -> Doorkeeper:
        """Who decides who is who, for one deployment."""
        return Doorkeeper(self._secret, lambda: self._known_key(name), self.allow_anonymous, self._verifier)

    def _known_key(self, name: str) -> str:
        """The admin key that a caller's is compared with, if there is one. Whoever knocks makes nothing on the disk."""
        known = self._admin_keys.get(name, "")
        return known_admin_key(self.directory(name)) if not known and NAME.fullmatch(name) else known

    def admin_key(self, name: str) -> str:
        """The admin key of a deployment; made on first use."""
        key = self._admin_keys.get(name)
        if key is None:
            key = self._admin_keys[name] = admin_key(self.directory(name), name)
        return key

    def directory(self, name: str) -> Path:
        """Where the data of a deployment lie."""
        assert self.serverapp is not None
        root = Path(self.data_dir) if self.data_dir else Path(self.serverapp.root_dir) / ".cellstore"
        return root.expanduser() / name


def address_of(serverapp: Any) -> str:
    """The URL, with a trailing slash, under which kernels on this machine reach the server."""
    if serverapp.sock or serverapp.ip not in WILDCARDS:
        return str(serverapp.connection_url)
    scheme = "https" if serverapp.certfile else "http"
    return f"{scheme}://127.0.0.1:{serverapp.port}{serverapp.base_url}"
