"""The author's grader once wrapped tests that were whole `assert` statements into another assert, so that nothing could
pass (amendment (c) of the preregistration). The program and the problem on which it was found."""

import pytest

from problems import Problem
from rewards import Grader, reward

TESTS = tuple(
    f"assert Solution().firstMissingPositive(nums = {given}) == {value}"
    for given, value in (([1, 2, 0], 3), ([3, 4, -1, 1], 2), ([7, 8, 9, 11, 12], 1), ([2, 1], 3), ([1, 1], 2), ([], 1))
)

CYCLIC_SORT = """```python
class Solution:
    def firstMissingPositive(self, nums):
        n = len(nums)
        for i in range(n):
            while 1 <= nums[i] <= n and nums[nums[i] - 1] != nums[i]:
                home = nums[i] - 1
                nums[i], nums[home] = nums[home], nums[i]
        for i in range(n):
            if nums[i] != i + 1:
                return i + 1
        return {last}
```"""


@pytest.fixture(scope="module")
def grader():
    with Grader(workers=1, timeout_s=4.0) as grader:
        yield grader


@pytest.mark.parametrize(("last", "passes", "paid"), [("n + 1", True, 3.5), ("n", False, 0.5)])
def test_the_textbook_answer_to_first_missing_positive_passes_and_one_that_is_off_by_one_does_not(
    last, passes, paid, grader
):
    problem = Problem("41", ({"role": "user", "content": "f"},), "", TESTS, "Solution().firstMissingPositive")
    grade = grader.grade([CYCLIC_SORT.format(last=last)], [problem])[0]
    assert (grade.compiles, grade.gt_pass, reward(grade)) == (True, passes, paid)
