"""Classes that the driver's script defines come back as the driver's own, in whatever they are wrapped."""

from __future__ import annotations

import pytest

from tests.support.drivers import driver

pytestmark = pytest.mark.integration

DEFINITIONS = """
    import abc, collections, dataclasses, enum, functools, typing
    nbray.init(num_cpus=1, local_mode=LOCAL)
    class Base:
        subclasses = []
        def __init_subclass__(cls, **_):
            Base.subclasses.append(cls.__name__)
        def __init__(self, x):
            self.x = x
        def __eq__(self, other):
            return vars(other) == vars(self)
    class Child(Base):
        def __init__(self, x):
            super().__init__(x)
    class Noting(type):
        made = []
        def __init__(cls, name, *_):
            Noting.made.append(name)
    class Noted(metaclass=Noting):
        pass
    class Outer:
        class Inner(Base):
            pass
    class Color(enum.Enum):
        RED = 1
        BLUE = 2
    class Bits(enum.Flag):
        A = 1
        B = 2
    class Number(enum.IntEnum):
        ONE = 1
    @dataclasses.dataclass(frozen=True, slots=True)
    class Fixed:
        x: int
        y: object = None
    class Named(typing.NamedTuple):
        x: int
    Pair = collections.namedtuple("Pair", "left right")
    class Words(list):
        pass
    class Whole(int):
        pass
    Item = typing.TypeVar("Item")
    class Box(typing.Generic[Item]):
        pass
    class Shape(abc.ABC):
        @abc.abstractmethod
        def area(self): ...
    class Square(Shape):
        def area(self):
            return 4
    class Lazy:
        @functools.cached_property
        def answer(self):
            return 42
    MAKERS = {
        "Base": lambda: Base(1), "Child": lambda: Child(2), "Inner": lambda: Outer.Inner(3),
        "Noted": lambda: Noted(), "Color": lambda: Color.BLUE, "Bits": lambda: Bits.A | Bits.B,
        "Number": lambda: Number.ONE, "Fixed": lambda: Fixed(1, Fixed(2)), "Named": lambda: Named(1),
        "Pair": lambda: Pair(1, 2), "Words": lambda: Words("ab"), "Whole": lambda: Whole(7),
        "Box": lambda: Box(), "Square": lambda: Square(), "Lazy": lambda: Lazy(),
    }
    @nbray.remote
    def same(value):
        return value
    @nbray.remote
    def make(name):
        return {"deep": [(MAKERS[name](),)]}
    def all_ways(name):
        value = MAKERS[name]()
        return value, [
            nbray.get(nbray.put(value)), nbray.get(same.remote(value)),
            nbray.get(make.remote(name))["deep"][0][0],
        ]
"""


@pytest.mark.parametrize("local", [False, True], ids=["cluster", "local mode"])
def test_instances_are_of_the_drivers_own_class(local: bool) -> None:
    with driver(f"    LOCAL = {local}\n" + DEFINITIONS + """
    for name in MAKERS:
        value, arrived = all_ways(name)
        tell([name, [type(one) is type(value) for one in arrived]])
        if isinstance(value, enum.Enum):
            tell([one is value for one in arrived])
    child, square, lazy = [all_ways(name)[1][2] for name in ("Child", "Square", "Lazy")]
    tell([isinstance(child, Base), square.area(), lazy.answer])
    tell(Base.subclasses + Noting.made)
    """) as running:  # fmt: skip
        for name in ("Base", "Child", "Inner", "Noted"):
            assert running.told() == [name, [True] * 3]
        for name in ("Color", "Bits", "Number"):
            assert running.told() == [name, [True] * 3]
            assert running.told() == [True] * 3
        for name in ("Fixed", "Named", "Pair", "Words", "Whole", "Box", "Square", "Lazy"):
            assert running.told() == [name, [True] * 3]
        assert running.told() == [True, 4, 42]
        assert running.told() == ["Child", "Inner", "Noted"]  # no class was made a second time
        assert running.ended() == 0


def test_class_that_is_defined_again_is_another_class() -> None:
    with driver("    LOCAL = False\n" + DEFINITIONS + """
    old = Base
    first = Base(1)
    nbray.get(same.remote(first))
    class Base:
        def __init__(self, x):
            self.x = x
    class Color(enum.Enum):
        GREEN = 3
    second = Base(2)
    back = nbray.get(same.remote([first, second, old, Base, Color.GREEN]))
    tell([type(back[0]) is old, type(back[1]) is Base, back[2] is old, back[3] is Base])
    tell(back[4] is Color.GREEN)
    @nbray.remote
    def make_new():
        return Base(3)
    tell(type(nbray.get(make_new.remote())) is Base)
    Base.level = 5      # changed in place: seen by those who take it from now on
    @nbray.remote
    def level(value):
        return value.level
    tell(nbray.get(level.remote(second)))
    """) as running:  # fmt: skip
        assert running.told() == [True] * 4
        assert running.told() is True
        assert running.told() is True
        assert running.told() == 5
        assert running.ended() == 0


def test_functions_with_caches_go_where_their_functions_go() -> None:
    with driver("    LOCAL = False\n" + DEFINITIONS + """
    @functools.lru_cache(maxsize=70, typed=True)
    def fibonacci(n):
        return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)
    class Method:
        @functools.cache
        def one(self):
            return 1
    @functools.singledispatch
    def kind(value):
        return "any"
    @kind.register
    def _(value: int):
        return "int"
    kind(1)
    @nbray.remote
    def use():
        known = fibonacci(60), fibonacci.cache_info().maxsize, fibonacci.cache_info().currsize
        return [*known, Method().one(), kind(1), kind("")]
    tell(nbray.get(use.remote()))
    tell(fibonacci.cache_info().currsize)
    tell(nbray.get(same.remote(fibonacci))(10))
    """) as running:  # fmt: skip
        assert running.told() == [1548008755920, 70, 61, 1, "int", "any"]
        assert running.told() == 0
        assert running.told() == 55
        assert running.ended() == 0
