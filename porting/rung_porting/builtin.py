"""The plans of the built-in tasks: `digits` asks which digit an image shows, `parity` whether it is odd."""

from __future__ import annotations

from rung_porting.plan import PruningPlan, Question, TaskPlan, TrainingPlan


def _pruned(sparsity: float, epochs: int, learning_rate: float) -> PruningPlan:
    return PruningPlan(sparsity=sparsity, training=TrainingPlan(epochs=epochs, learning_rate=learning_rate))


# The smaller a version, the cheaper its epochs, and the more of them it needs.
_LADDER = (
    _pruned(0.3, 3, 0.003),
    _pruned(0.5, 4, 0.004),
    _pruned(0.7, 5, 0.005),
    _pruned(0.8, 6, 0.006),
    _pruned(0.88, 8, 0.008),
    _pruned(0.93, 10, 0.01),
    _pruned(0.96, 12, 0.012),
)
BUILT_IN: dict[str, TaskPlan] = {
    plan.name: plan
    for plan in (
        TaskPlan(
            name="digits",
            question=Question.DIGIT,
            base=TrainingPlan(epochs=7, learning_rate=0.003),
            pruned=_LADDER,
        ),
        TaskPlan(
            name="parity",
            question=Question.PARITY,
            base=TrainingPlan(epochs=8, learning_rate=0.003),
            pruned=_LADDER,
        ),
    )
}
