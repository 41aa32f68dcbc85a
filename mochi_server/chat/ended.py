"""What is told of a reply that has ended: one log line, and its counts. Nothing is, for a token."""

import logging
import time

from mochi_server.chat.generation import Generation, Outcome
from mochi_server.domain.messages import Stats
from mochi_server.observability.logs import log
from mochi_server.observability.metrics import Metrics, Reply

logger = logging.getLogger("mochi_server.generation")


def tell(generation: Generation, model: str, outcome: Outcome, metrics: Metrics) -> None:
    """Log and count a reply of this model. `outcome` in the line is its status, or the code of what went wrong."""
    message = outcome.message
    stats = (message and message.stats) or Stats()
    ended = outcome.failure.code if outcome.failure else message.status if message else "interrupted"
    reply = Reply(
        outcome=ended,
        total_ms=round((time.monotonic() - generation.began) * 1000, 1),
        prompt_tokens=message.prompt_eval_count if message else None,
        reply_tokens=message.eval_count if message else None,
        ttft_ms=stats.ttft_ms,
        tokens_per_second=stats.tokens_per_second,
    )
    log(
        logger,
        logging.INFO,
        "generation",
        session_id=generation.session_id,
        generation_id=generation.id,
        model=model,
        prompt_tokens=reply.prompt_tokens,
        reply_tokens=reply.reply_tokens,
        ttft_ms=reply.ttft_ms,
        total_ms=reply.total_ms,
        window=message.context.window if message and message.context else None,
        outcome=ended,
        done_reason=message.done_reason if message else generation.stop_reason,
        correlation_id=generation.correlation_id,
    )
    metrics.reply(reply)
