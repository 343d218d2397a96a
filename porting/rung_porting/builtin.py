"""The plans of the built-in tasks: `digits` asks which digit an image shows, `parity` whether it is odd."""

from __future__ import annotations

from rung_porting.plan import PruningPlan, Question, TaskPlan, TrainingPlan


def _pruned(sparsity: float, epochs: int, learning_rate: float) -> PruningPlan:
    return PruningPlan(sparsity=sparsity, training=TrainingPlan(epochs=epochs, learning_rate=learning_rate))


# The smaller a version, the cheaper its epochs, and the more of them it needs. Chosen by hand so that accuracy rises
# with size: few enough epochs that the small ones don't overtake, enough that they are worth serving.
_DIGITS = (
    _pruned(0.5, 1, 0.001),
    _pruned(0.7, 2, 0.003),
    _pruned(0.84, 4, 0.004),
    _pruned(0.92, 12, 0.01),
    _pruned(0.945, 24, 0.012),
    _pruned(0.96, 24, 0.015),
)
_PARITY = (
    _pruned(0.5, 1, 0.001),
    _pruned(0.7, 2, 0.005),
    _pruned(0.84, 3, 0.006),
    _pruned(0.92, 2, 0.01),
    _pruned(0.945, 2, 0.01),
    _pruned(0.975, 3, 0.012),
)
BUILT_IN: dict[str, TaskPlan] = {
    plan.name: plan
    for plan in (
        TaskPlan(
            name="digits",
            question=Question.DIGIT,
            base=TrainingPlan(epochs=6, learning_rate=0.003),
            pruned=_DIGITS,
        ),
        TaskPlan(
            name="parity",
            question=Question.PARITY,
            base=TrainingPlan(epochs=5, learning_rate=0.003),
            pruned=_PARITY,
        ),
    )
}
