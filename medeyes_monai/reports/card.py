"""The model card beside a trained policy: what it is, how it is loaded, and what was measured."""

from __future__ import annotations

import json
from pathlib import Path

from medeyes_monai import __version__
from medeyes_monai.io.atomic import write_atomic
from medeyes_monai.policy import HuggingFacePolicy

__all__ = ["write_card"]


def write_card(directory: str | Path, policy: HuggingFacePolicy, table: str) -> None:
    """Write ``README.md`` into the directory of a policy that was saved.

    Args:
        directory: The directory.
        policy: The policy that was saved there.
        table: What was measured on it, as a Markdown table.
    """
    settings = policy.settings
    adapter = policy.adapted is not None
    head = {
        "base_model": policy.base,
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": ["medical", "MONAI", "medeyes_monai"] + (["lora"] if adapter else []),
    }
    described = [
        ("base", policy.base + (f", revision {policy.revision}" if policy.revision else "")),
        ("weights", "LoRA adapter" if adapter else f"whole model, {settings.dtype}"),
        ("boxes", "pixels of the overview" if settings.coordinates == "pixels" else "0 to 1000"),
        ("overview, look", f"at most {settings.overview_pixels} and {settings.look_pixels} pixels"),
        ("looks, tokens of a turn", f"at most {settings.max_looks} and {settings.max_turn_tokens}"),
        ("tools", ", ".join(settings.tools) or "none"),
    ]
    rows = "\n".join(f"| {name} | {value} |" for name, value in described)
    front = "\n".join(f"{name}: {json.dumps(value)}" for name, value in head.items())
    text = f"""---
{front}
---

# A policy that looks before it answers

Trained by dual-stream GRPO with medeyes_monai {__version__}. For research; not a medical device, and no
output of it is fit for a decision about a patient.

| | |
|---|---|
{rows}

## Measured

{table}

The column of the trained policy was measured on the weights in this directory, read back after they
were saved.

## Use

The settings stand in `policy_config.json` and are taken from there:

```
python -m medeyes_monai evaluate --policy DIRECTORY
python -m medeyes_monai infer --policy DIRECTORY --image scan.png --question "Is there a nodule?"
```
"""
    if adapter:
        text += """
Without medeyes_monai, `PeftModel.from_pretrained(base, DIRECTORY)` lays the adapter over the base;
`python -m medeyes_monai export --merge` writes a checkpoint that needs neither the base nor peft.
"""
    write_atomic(Path(directory) / "README.md", text.encode())
