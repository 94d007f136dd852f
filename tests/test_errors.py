from fedmerge.errors import nearest, unknown


def test_nearest_offers_a_close_name_and_stays_silent_otherwise():
    assert nearest("gredy", ["greedy", "mean"]) == " Did you mean 'greedy'?"
    assert nearest("zzzz", ["greedy", "mean"]) == ""


def test_unknown_names_the_kind_the_given_and_the_allowed():
    text = str(unknown("fusion method", "maen", ["mean", "greedy"]))
    assert text == "unknown fusion method 'maen'. Did you mean 'mean'? Allowed: greedy, mean."
