"""What adapters share: plain data and the places that it came from."""

from egressproxy.config.adapters.adapter import At, settle
from egressproxy.config.native import Places


def test_what_has_no_place_of_its_own_has_that_of_what_is_around_it():
    data, places = settle(At(1, {"a": At(2, ["x", At(3, "y")]), "b": {"c": At(4, 5)}, "d": ()}))
    assert data == {"a": ["x", "y"], "b": {"c": 5}, "d": []}
    assert isinstance(places, Places)
    assert (places.mark, places.keys) == (1, {"a": 2, "b": 1, "d": 1})
    assert (places.children["a"].mark, places.children["a"].children) == (2, [2, 3])
    assert (places.children["b"].keys, places.children["b"].children) == ({"c": 4}, {"c": 4})
    assert places.children["d"].children == []


def test_a_value_alone_has_its_mark():
    assert settle(At(7, "word")) == ("word", 7)
