"""Where ``ray.data.llm`` looks for vLLM's metrics."""


class RayPrometheusStatLogger:
    """None are kept."""
