"""What a node answers: refusals by their facts, and plans that are not the approved one."""


def refused(answer, *facts):
    assert isinstance(answer, str), "it was answered"
    for fact in facts:
        assert fact in answer
    return answer


def changed(plan, **fields):
    return plan.model_copy(update=fields)
