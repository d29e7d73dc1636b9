"""stub"""

from typing import Any


def write_attention_report(path: Any, study: Any, *, command: str) -> None:
    pass
