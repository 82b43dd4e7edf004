"""scikit-learn's own estimator checks: all of them, no expected failures, no tag that switches one off."""

from __future__ import annotations

from pathlib import Path

import pytest
from priorax.models import PFNClassifier
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

pytestmark = pytest.mark.usefixtures("few_programs")
LEAST_ROWS = 256  # the largest table of the checks
TINY = str(Path(__file__).parent / "tiny.safetensors")


@parametrize_with_checks([PFNClassifier(weights=TINY)])
def test_scikit_learn_check(estimator, check):
    check(estimator)


def test_no_tag_dodges_a_check():
    tags = get_tags(PFNClassifier())
    assert not tags.non_deterministic and not tags.no_validation and not tags._skip_test
    assert not tags.classifier_tags.poor_score
    assert tags.input_tags.allow_nan
    assert len(list(estimator_checks_generator(PFNClassifier()))) >= 50
