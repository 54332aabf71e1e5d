"""Events for other services: what they are (`kinds`), how they are published (`publishing`) and read (`subscribe`).

docs/events.md is for whoever subscribes.
"""

from .received import Data as Data
from .received import Event as Event
from .subscribing import BEGINNING as BEGINNING
from .subscribing import NOW as NOW
from .subscribing import Subscription as Subscription
from .subscribing import Unreachable as Unreachable
from .subscribing import subscribe as subscribe
