"""The plans of the built-in tasks: `digits` asks which digit an image shows, `parity` whether it is odd."""

from __future__ import annotations

from rung_porting.plan import PruningPlan, Question, TaskPlan, TrainingPlan


def _pruned(sparsity: float, epochs: int, learning_rate: float) -> PruningPlan:
    return PruningPlan(sparsity=sparsity, training=TrainingPlan(epochs=epochs, learning_rate=learning_rate))


BUILT_IN: dict[str, TaskPlan] = {
    plan.name: plan
    for plan in (
        TaskPlan(
            name="digits",
            question=Question.DIGIT,
            base=TrainingPlan(epochs=7, learning_rate=0.003),
            pruned=(
                _pruned(0.3, 1, 0.002),
                _pruned(0.6, 2, 0.003),
                _pruned(0.75, 3, 0.004),
                _pruned(0.85, 4, 0.006),
                _pruned(0.92, 6, 0.01),
                _pruned(0.96, 10, 0.015),
            ),
        ),
        TaskPlan(
            name="parity",
            question=Question.PARITY,
            base=TrainingPlan(epochs=8, learning_rate=0.003),
            pruned=(
                _pruned(0.3, 1, 0.002),
                _pruned(0.6, 2, 0.003),
                _pruned(0.75, 3, 0.004),
                _pruned(0.85, 4, 0.006),
                _pruned(0.92, 6, 0.01),
                _pruned(0.96, 10, 0.015),
            ),
        ),
    )
}
