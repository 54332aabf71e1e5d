"""Who may come in, as whom, and from which pages."""

from __future__ import annotations

import hmac
from urllib.parse import unquote, urlsplit

import jwt
from starlette.requests import HTTPConnection

from qingyu_ai.settings import Proxy
from services.proxy.errors import PERMISSION_DENIED, UNAUTHENTICATED, AIProxyError, Invalid
from services.proxy.who import NOBODY, Who

from .paths import sent_path
from .tickets import COOKIE, Tickets

COOKIE_NAME = "qingyu_reader"
BACKEND_KEY = "x-backend-key"
USER, PROJECT = "x-user-id", "x-project-id"
LONGEST_TOKEN = 8 * 1024
SHARED_ALGORITHMS = ("HS256",)
PUBLIC_ALGORITHMS = ("RS256", "ES256", "EdDSA")
"""Never both for one key: a public key would be taken for a shared one."""


class Doors:
    """Decides who calls. What a body says counts only against that.

    Args:
        settings: of the HTTP face.
        tickets: of this process.
    """

    def __init__(self, settings: Proxy, tickets: Tickets) -> None:
        self._settings = settings
        self._tickets = tickets
        shared = settings.token_key.get_secret_value()
        public = settings.token_key_file.read_text() if settings.token_key_file else ""
        self._key = shared or public
        self._algorithms = SHARED_ALGORITHMS if shared else PUBLIC_ALGORITHMS
        self._backend_key = settings.backend_key.get_secret_value().encode()

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

    def who(self, connection: HTTPConnection) -> Who:
        """Find out who calls.

        Raises:
            AIProxyError: nobody who may.
        """
        headers = connection.headers
        bearer = _bearer(headers.get("authorization", ""))
        if BACKEND_KEY in headers:
            if not self._backend_key or not hmac.compare_digest(headers[BACKEND_KEY].encode(), self._backend_key):
                raise AIProxyError(UNAUTHENTICATED, "后端密钥无效", "This is not the key of a trusted backend")
            return _named(connection, bearer)
        if bearer and self._key:
            return self._verified(connection, bearer)
        if ticket := connection.query_params.get("ticket", ""):
            return self._ticket(connection, ticket)
        if cookie := connection.cookies.get(COOKIE_NAME, ""):
            return self._tickets.open(cookie, sent_path(connection.scope), COOKIE)
        if self._settings.authentication == "off":
            return _named(connection, bearer)
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

    def _verified(self, connection: HTTPConnection, token: str) -> Who:
        settings = self._settings
        try:
            claims = jwt.decode(
                token,
                self._key,
                algorithms=list(self._algorithms),
                audience=settings.token_audience or None,
                issuer=settings.token_issuer or None,
                options={"require": ["exp", "sub"], "verify_aud": bool(settings.token_audience)},
            )
        except jwt.ExpiredSignatureError:
            raise AIProxyError(
                UNAUTHENTICATED, "令牌已过期，请重新登录", "The token has expired; sign in again"
            ) from None
        except (jwt.InvalidTokenError, ValueError):
            raise AIProxyError(UNAUTHENTICATED, "令牌无效", "The token is not valid") from None
        named = _named(connection, token)
        if named.user_id not in ("", claims["sub"]):
            raise AIProxyError(PERMISSION_DENIED, "令牌不属于该用户", "The token is another user's than X-User-Id says")
        return Who(claims["sub"], named.project_id, token)


def _bearer(header: str) -> str:
    scheme, _, token = header.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        return ""
    if len(token) > LONGEST_TOKEN or not (token.isascii() and token.isprintable()):
        raise AIProxyError(UNAUTHENTICATED, "令牌无效", "The token is not valid")
    return token


def _named(connection: HTTPConnection, token: str) -> Who:
    """Whom the headers name; ids that are not ASCII are percent-encoded."""
    found = []
    for name in (USER, PROJECT):
        try:
            found.append(unquote(connection.headers.get(name, ""), errors="strict"))
        except UnicodeDecodeError:
            raise Invalid((name, "is no percent-encoded UTF-8")) from None
    return Who(found[0], found[1], token) if any(found) or token else NOBODY
