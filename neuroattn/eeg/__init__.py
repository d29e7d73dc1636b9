"""EEG decoding with channel attention."""

from neuroattn.eeg.insert import insert_attention

__all__ = ["insert_attention"]
