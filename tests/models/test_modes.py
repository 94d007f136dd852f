import pytest
from torch import nn

from fedmerge.models.modes import evaluating, training


@pytest.mark.parametrize(("mode", "expected"), [(evaluating, False), (training, True)])
def test_every_module_is_in_the_mode_and_gets_its_own_flag_back(mode, expected):
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout()))
    model[0].eval()
    before = [module.training for module in model.modules()]
    with mode(model):
        assert all(module.training is expected for module in model.modules())
    assert [module.training for module in model.modules()] == before
