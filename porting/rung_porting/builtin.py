"""The plans of the built-in tasks: `digits` asks which digit an image shows, `parity` whether it is odd."""

from __future__ import annotations

from rung_porting.plan import PruningPlan, Question, TaskPlan, TrainingPlan


def _pruned(sparsity: float, epochs: int, learning_rate: float) -> PruningPlan:
    return PruningPlan(sparsity=sparsity, training=TrainingPlan(epochs=epochs, learning_rate=learning_rate))


# The smaller a version, the cheaper its epochs, and the more of them it needs.
_LADDER = (
    _pruned(0.3, 2, 0.001),
    _pruned(0.5, 2, 0.001),
    _pruned(0.7, 3, 0.001),
    _pruned(0.8, 4, 0.002),
    _pruned(0.88, 6, 0.003),
    _pruned(0.93, 8, 0.004),
    _pruned(0.96, 10, 0.006),
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
