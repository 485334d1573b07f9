"""The GPU's runners, proven against the reference before they serve. Importing this needs Triton, so only what runs on a GPU does."""

import logging

from guardrail.engine.cope.cuda.check import agrees
from guardrail.engine.cope.cuda.flex import FlexRunner
from guardrail.engine.cope.cuda.runner import CudaRunner, Limits
from guardrail.engine.cope.packed_weights import PackedWeights
from guardrail.engine.cope.reference import ReferenceRunner
from guardrail.engine.cope.runner import Runner
from guardrail.engine.cope.runners import Ground

logger = logging.getLogger("guardrail.engine")


def cuda(ground: Ground, weights: PackedWeights) -> Runner:
    """Fused kernels in captured graphs. Raises ValueError for a model they do not cover, ClassifierError when they do not agree."""
    runner = CudaRunner(weights, ground.pool, ground.head, Limits(longest=ground.longest, most_tokens=ground.most_tokens))
    graphs = runner.warm()
    logger.info("the GPU runner captured %d graphs", graphs)
    return proven(runner, ground)


def flex(ground: Ground, weights: PackedWeights) -> Runner:
    """Plain torch around flex attention. Raises ClassifierError when it does not agree with the reference."""
    return proven(FlexRunner(weights, ground.pool, ground.head, most_tokens=ground.most_tokens), ground)


def proven(runner: Runner, ground: Ground) -> Runner:
    """The runner, when it answers fixed questions as the reference does. Raises ClassifierError (canary) otherwise."""
    config = ground.model.config
    reference = ReferenceRunner(ground.model, ground.pool, ground.head)
    found = agrees(runner, reference, vocabulary=config.vocab_size, window=getattr(config, "sliding_window", None))
    logger.info(
        "the %s runner agrees with the reference on %d questions up to position %d: probabilities to %.2g, logits to %.2g",
        runner.name,
        found.questions,
        found.farthest,
        found.probability,
        found.logit,
    )
    return runner
