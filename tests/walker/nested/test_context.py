import pytest

from crosswalk.walker import BadInput, PagingContext, Vendor
from crosswalk.walker.nested import NestedContext


@pytest.mark.parametrize("side", ["guest", "host"])
@pytest.mark.parametrize(
    ("registers", "feature"),
    [
        ({"cr3": 1 << 61}, "LAM"),
        ({"cr4": 0x20 | 1 << 28}, "LAM"),
        ({"cr4": 0x20 | 1 << 27}, "LASS"),
        ({"efer": 0x100D00, "vendor": Vendor.AMD}, "UAI"),
        ({"encryption_mask": 1 << 47}, "an encryption mask"),
    ],
)
def test_features_that_are_not_modelled_in_two_dimensions_are_refused(side, registers, feature):
    sides = {"guest": PagingContext(cr3=0), "host": PagingContext(cr3=0)}
    sides[side] = PagingContext(**{"cr3": 0} | registers)
    with pytest.raises(BadInput, match=f"not modelled with {feature}; the {side} has it"):
        NestedContext(**sides)
