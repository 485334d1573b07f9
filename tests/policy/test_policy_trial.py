from guardrail.errors import ClassifierError
from guardrail.policy.document import parse
from guardrail.policy.trial import BATCH, run_tests
from guardrail.testing import ScriptedClassifier, contains


async def test_tests_are_judged_by_the_policys_own_threshold(document: str) -> None:
    classifier = ScriptedClassifier({"used_cars": contains("estate", score=0.6)})
    (trial,) = await run_tests([parse(document)], classifier)
    assert (trial.rate, trial.failures) == (1.0, ())
    (strict,) = await run_tests([parse(document.replace("threshold: 0.6", "threshold: 0.61"))], classifier)
    assert [(result.case.why, result.score) for result in strict.failures] == [("Offer", 0.6)]
    assert strict.rate == 0.5


async def test_tests_are_prompts_unless_the_policy_is_for_answers_alone(document: str) -> None:
    classifier = ScriptedClassifier({"used_cars": contains("estate", score=0.6)})
    both = document.replace("threshold: 0.6", "threshold: {input: 0.9, output: 0.5}")
    (prompts,) = await run_tests([parse(both)], classifier)
    (answers,) = await run_tests([parse(both.replace("[input, output]", "[output]"))], classifier)
    assert (prompts.rate, answers.rate) == (0.5, 1.0)


async def test_policies_are_prepared_first_and_each_text_asked_of_its_own_policy(document: str) -> None:
    policies = [parse(document), parse(document.replace("id: used_cars", "id: other"))]
    classifier = ScriptedClassifier()
    trials = await run_tests(policies, classifier)
    assert classifier.prepared == tuple(policies)
    assert [trial.policy.id for trial in trials] == ["used_cars", "other"]
    assert [(request.policy.id, request.text) for request in classifier.requests] == [
        (policy.id, case.text) for policy in policies for case in policy.tests
    ]


async def test_an_error_is_a_failure_even_where_0_is_expected(document: str) -> None:
    for fault in (ClassifierError("crash", "gone"), "short", "not_a_number"):
        (trial,) = await run_tests([parse(document)], ScriptedClassifier(fault=fault))
        assert trial.rate == 0.0
        assert all(result.score is None and result.error for result in trial.results)


async def test_many_tests_go_in_batches_and_come_back_in_order(document: str) -> None:
    cases = "".join(f'- text: "case {number}"\n  expect: {number % 2}\n' for number in range(BATCH + 5))
    policy = parse(document.replace("```\n", cases + "```\n", 1))
    classifier = ScriptedClassifier()
    (trial,) = await run_tests([policy], classifier)
    assert classifier.batches == 2
    assert [result.case for result in trial.results] == list(policy.tests)


async def test_a_policy_without_tests_proves_nothing(document: str) -> None:
    policy = parse(document.split("## Tests", maxsplit=1)[0])
    (trial,) = await run_tests([policy], ScriptedClassifier())
    assert trial.rate == 0.0
