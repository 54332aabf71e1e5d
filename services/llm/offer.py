"""The models of this deployment, by the names under which requests may ask for them. Wired here, once for each process."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from qingyu_ai.bus.errors import ModelNotAvailable
from qingyu_ai.settings import Settings, SettingsError

from .chain import Chain
from .curl import Curls
from .gate import NewGate
from .long import LongAnswer
from .meters import Meters
from .model import Model
from .offline.model import OfflineModel
from .remote import RemoteModel
from .server import Server
from .words import WordList, word_gate

log = structlog.get_logger(__name__)


class Offer:
    """See the module.

    Args:
        models: by name.
        default: the name for requests that ask for none.
        new_gate: what every answer passes before anybody sees it.
        curls: closed at the end.
    """

    def __init__(
        self, models: Mapping[str, Model], default: str, new_gate: NewGate | None = None, curls: Curls | None = None
    ) -> None:
        self._models = models
        self.default = default
        self.new_gate = new_gate
        self._curls = curls

    def __repr__(self) -> str:
        return f"<Offer {sorted(self._models)}, default {self.default}>"

    @property
    def names(self) -> list[str]:
        """What may be asked for."""
        return sorted(self._models)

    def find(self, name: str) -> Model:
        """The model of a name; of none, the default.

        Raises:
            ModelNotAvailable: there is no such model.
        """
        model = self._models.get(name or self.default)
        if model is None:
            raise ModelNotAvailable(name, self._models)
        return model

    def close(self) -> None:
        """Close all connections."""
        if self._curls is not None:
            self._curls.close()


def open_offer(settings: Settings, meters: Meters) -> Offer:
    """Wire what the settings name; the offline model is always there, and the default where nothing else is.

    Raises:
        SettingsError: a key or a word list cannot be read.
    """
    offline = OfflineModel(settings.offline.first_delay_seconds, settings.offline.deltas_per_second)
    models: dict[str, Model] = {offline.name: offline}
    aliases = settings.llm.aliases
    curls = Curls() if aliases else None
    remotes: dict[str, RemoteModel] = {}
    servers: dict[tuple[str, str], Server] = {}
    for alias, own in aliases.items():
        assert curls is not None
        server = Server(alias, own, curls)
        first = servers.setdefault(server.identity, server)
        if first is not server:
            server = Server(alias, own, curls, beside=first)
        remotes[alias] = RemoteModel(server, own, meters)
    for alias, own in aliases.items():
        chain = Chain([remotes[alias], *(remotes[other] for other in own.fallbacks)], meters)
        models[alias] = LongAnswer(chain, own, meters)
    default = settings.llm.default or next(iter(aliases), offline.name)
    return Offer(models, default, _gate(settings), curls)


def _gate(settings: Settings) -> NewGate | None:
    path = settings.llm.words_file
    if path is None:
        return None
    try:
        words = WordList.read(path)
    except (OSError, UnicodeDecodeError) as e:
        raise SettingsError(f"QINGYU_LLM__WORDS_FILE: {path} cannot be read as UTF-8 text ({e})") from None
    log.info("word_gate", words=len(words.words), action=settings.llm.words_action)
    return word_gate(words, settings.llm.words_action)
