from collections.abc import Sequence
from typing import Any

CBQ: Any  # a subclass of lm_eval.api.model.LM, made when it is asked for

def rolling_windows(ids: Sequence[int], first: int, longest: int) -> list[tuple[list[int], list[int]]]: ...
def main() -> None: ...
