"""Options as the command line spells them."""

from __future__ import annotations

import pytest

from joulec.options import OptionError, parse_input_shapes


def test_input_shapes_add_up():
    wanted = {"x": (1, 3), "y": (), "z": (2,)}
    assert parse_input_shapes("x:[1,3] y:[]", "z:[2]") == wanted
    assert parse_input_shapes("x:[1,3]", "y:[], z:[2]", "x:[1,3]") == wanted
    assert parse_input_shapes() == {}


@pytest.mark.parametrize("texts", [("x:[1] x:[2]",), ("x:[1]", "x:[2]")])
def test_an_input_has_one_shape(texts):
    with pytest.raises(OptionError, match=r"gives 'x' both \[1\] and \[2\]; give one"):
        parse_input_shapes(*texts)
