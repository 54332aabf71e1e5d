"""Who may come in, as whom, and from which pages."""

from __future__ import annotations

import hmac
from urllib.parse import unquote, urlsplit

from starlette.requests import HTTPConnection

from qingyu_ai.identity.claims import Claims, Refused
from qingyu_ai.identity.keys import BadKeys
from qingyu_ai.identity.verifier import LONGEST_TOKEN, CannotTell, Verifier, bearer, verifier_of
from qingyu_ai.settings import Proxy, SettingsError, env_name
from services.proxy.errors import PERMISSION_DENIED, UNAUTHENTICATED, UNAVAILABLE, AIProxyError, Invalid
from services.proxy.who import NOBODY, Who

from .paths import sent_path
from .tickets import COOKIE, Tickets

COOKIE_NAME = "qingyu_reader"
BACKEND_KEY = "x-backend-key"
USER, PROJECT = "x-user-id", "x-project-id"
NOT_VALID = ("令牌无效，请重新登录", "The token is not valid; sign in again")
"""For every reason: another word would help only who forges tokens."""


class Doors:
    """Decides who calls. What a body says counts only against that.

    Args:
        settings: of the HTTP face.
        tickets: of this process.
        verifier: of tokens; None: there is no key for them.
    """

    def __init__(self, settings: Proxy, tickets: Tickets, verifier: Verifier[Claims] | None = None) -> None:
        self._settings = settings
        self._tickets = tickets
        self._verifier = verifier
        self._backend_key = settings.backend_key.get_secret_value().encode()

    @classmethod
    async def open(cls, settings: Proxy, tickets: Tickets) -> Doors:
        """Read the keys.

        Raises:
            SettingsError: they cannot be used.
        """
        verifier = verifier_of(settings, lambda claims: claims)
        if verifier is not None:
            try:
                await verifier.start()
            except BadKeys as e:
                raise SettingsError(f"{env_name(('proxy', 'token_key_file'))}: {e}") from None
        return cls(settings, tickets, verifier)

    async def close(self) -> None:
        """Look for keys no more."""
        if self._verifier is not None:
            await self._verifier.stop()

    def check_origin(self, connection: HTTPConnection) -> None:
        """Let pages of known origins in, and whoever is no page.

        Raises:
            AIProxyError: it comes from another page.
        """
        origin = connection.headers.get("origin", "").lower()
        if not origin or origin in self._settings.allowed_origins:
            return
        if urlsplit(origin).netloc == connection.headers.get("host", "").lower():
            return  # the proxy's own
        raise AIProxyError(
            PERMISSION_DENIED, "不允许该来源访问", "This origin may not call; see QINGYU_PROXY__ALLOWED_ORIGINS"
        )

    async def who(self, connection: HTTPConnection) -> Who:
        """Find out who calls.

        Raises:
            AIProxyError: nobody who may.
        """
        headers = connection.headers
        given = headers.getlist("authorization")
        if len(given) > 1:  # of which whoever stands between may have read the other one
            raise AIProxyError(UNAUTHENTICATED, *NOT_VALID)
        token = bearer(given[0]) if given else ""
        if BACKEND_KEY in headers:
            if not self._backend_key or not hmac.compare_digest(headers[BACKEND_KEY].encode(), self._backend_key):
                raise AIProxyError(UNAUTHENTICATED, "后端密钥无效", "This is not the key of a trusted backend")
            return _named(connection, token)
        if token and self._verifier is not None:
            return await self._verified(connection, token, self._verifier)
        if ticket := connection.query_params.get("ticket", ""):
            return self._ticket(connection, ticket)
        if cookie := connection.cookies.get(COOKIE_NAME, ""):
            return self._tickets.open(cookie, sent_path(connection.scope), COOKIE)
        if self._settings.authentication == "off":
            return _named(connection, token)
        raise AIProxyError(
            UNAUTHENTICATED,
            "请先登录：需要令牌或票据",
            "Say who you are: a bearer token, a ticket or a backend's key is needed",
        )

    def _ticket(self, connection: HTTPConnection, ticket: str) -> Who:
        path = sent_path(connection.scope)
        try:
            return self._tickets.open(ticket, path)
        except AIProxyError:
            # An EventSource that comes back brings its spent ticket, too.
            if cookie := connection.cookies.get(COOKIE_NAME, ""):
                return self._tickets.open(cookie, path, COOKIE)
            raise

    async def _verified(self, connection: HTTPConnection, token: str, verifier: Verifier[Claims]) -> Who:
        try:
            claims = await verifier.verify(token)
        except Refused:
            raise AIProxyError(UNAUTHENTICATED, *NOT_VALID) from None
        except CannotTell:
            raise AIProxyError(
                UNAVAILABLE, "暂时无法验证令牌，请稍后重试", "Tokens cannot be verified at this moment; try again"
            ) from None
        named = _named(connection, token)
        if named.user_id not in ("", claims.user):
            raise AIProxyError(PERMISSION_DENIED, "令牌不属于该用户", "The token is another user's than X-User-Id says")
        return Who(claims.user, named.project_id, token)


def _named(connection: HTTPConnection, token: str) -> Who:
    """Whom the headers name; ids that are not ASCII are percent-encoded."""
    if len(token) > LONGEST_TOKEN or not (token.isascii() and (not token or token.isprintable())):
        raise AIProxyError(UNAUTHENTICATED, *NOT_VALID)
    found = []
    for name in (USER, PROJECT):
        try:
            found.append(unquote(connection.headers.get(name, ""), errors="strict"))
        except UnicodeDecodeError:
            raise Invalid((name, "is no percent-encoded UTF-8"), chinese=f"{name}：须为百分号编码的 UTF-8") from None
    return Who(found[0], found[1], token) if any(found) or token else NOBODY
