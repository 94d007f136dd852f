"""What files say of themselves beside their pixels."""

from fedmerge.data.sources.file_facts import Spacing, spacing_of


def test_spacing_is_the_median_to_three_digits_and_says_whether_images_differ():
    assert spacing_of([None, None]) is None
    assert spacing_of([(0.7, 0.35), None, (0.7, 0.35)]) == Spacing(0.7, 0.35, False, 2)
    assert spacing_of([(0.1234567, 1.0), (0.1234567, 1.005)]) == Spacing(0.123, 1.0, False, 2)
    assert spacing_of([(0.5, 1.0), (0.7, 1.0), (2.0, 1.0)]) == Spacing(0.7, 1.0, True, 3)
