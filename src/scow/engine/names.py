"""Names of containers: docker's rules for given ones, and pairs of an adjective and a surname for the rest."""

import random
import re
from collections.abc import Callable
from typing import Final

from scow.errors import InvalidArgument

NAME: Final = re.compile(r"/?[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z")


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ADJECTIVES: Final = _words(
    """
    able agile amber ample ardent awake balmy bold bonny brave breezy bright brisk calm candid chatty cheerful
    clever cosy crisp curious daring dapper deft eager earnest easy elated fair fearless fleet fond frank free
    fresh gallant gentle gifted glad golden graceful grand happy hardy hearty honest hopeful humble jolly jovial
    keen kind lively loyal lucid lucky mellow merry mighty mild mindful modest neat nimble noble patient peaceful
    placid plucky polite proud prudent quick quiet radiant ready robust serene sharp silent sincere smart snug
    sober solid spry steady stoic sturdy sunny swift tidy tranquil trusty upbeat valiant vivid warm wise witty
    zealous zesty
    """
)

SURNAMES: Final = _words(
    """
    agnesi albattani aryabhata babbage banneker bardeen bell bhabha blackwell bohr boole borg bose brahmagupta
    burnell carson cartwright cerf chandrasekhar clarke colden cori cray curie darwin davinci dijkstra dubinsky
    easley edison einstein elion engelbart euclid euler faraday fermat fermi feynman franklin gagarin galileo
    galois gates gauss germain goldberg goodall hamilton hawking heisenberg hertz hodgkin hopper hugle hypatia
    jackson jang jepsen johnson kalam kapitsa kare keldysh kepler khayyam khorana kilby kirch knuth kowalevski
    lalande lamarr lamport leakey leavitt lichterman liskov lovelace lumiere mayer mccarthy mcclintock meitner
    mendel mendeleev merkle mirzakhani morse murdock napier nash neumann newton nightingale nobel noether noyce
    panini pare pascal pasteur payne perlman pike poincare ptolemy raman ramanujan ride ritchie roentgen rosalind
    sammet shannon shaw shockley sinoussi snyder spence stallman swanson swartz swirles tesla thompson torvalds
    turing varahamihira villani wescoff wiles williams wilson wing wozniak wright yalow yonath zhukovsky
    """
)


class InvalidName(InvalidArgument):
    """The name breaks docker's rule."""

    def __init__(self, name: str) -> None:
        super().__init__(f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")


def check_name(name: str) -> str:
    """Return a given name without its slash. Raises InvalidName."""
    if not NAME.match(name):
        raise InvalidName(name)
    return name.removeprefix("/")


def random_name(taken: Callable[[str], bool]) -> str:
    """A free name like `brave_hopper`; a digit is appended when luck runs out."""
    for attempt in range(1000):
        name = f"{random.choice(ADJECTIVES)}_{random.choice(SURNAMES)}"
        if attempt > 5:
            name += str(random.randrange(10 ** (attempt // 100 + 1)))
        if not taken(name):
            return name
    raise InvalidArgument("no free container name was found; give one with --name")
