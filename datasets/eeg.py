"""EEG trials around a cue: one table of signals, labels, subjects, sessions and runs, and its readers."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.signal import butter, sosfilt, sosfilt_zi, sosfiltfilt

from neuroattn._checks import check_option, check_shape
from neuroattn._extras import import_extra
from neuroattn._files import below, check_file, listed, reading, refusal

SUFFIXES = (".edf", ".bdf", ".gdf", ".fif", ".vhdr")
KEYS = ("subject", "session", "run")
# sub-01_ses-02_run-1 of BIDS, and S007R04 of PhysioNet.
NAMES = (
    r"^sub-(?P<subject>[^_]+)(?:.*?_ses-(?P<session>[^_]+))?(?:.*?_run-(?P<run>[^_]+))?",
    r"S(?P<subject>\d+)R(?P<run>\d+)$",
)
ORDER = 4  # of the Butterworth filter
VOLTS_BELOW = 1e-2  # microvolt: the noise of an amplifier alone is larger


def check_signals(name: str, X: NDArray[Any], ch_names: Sequence[str]) -> None:
    """Refuse channels that hold NaN or infinity or that are constant, and warn of volts.

    Parameters
    ----------
    name : str
        What the error calls the array.
    X : float array, shape (trial, channel, time)
        Microvolt.
    ch_names : sequence of str
    """
    finite = np.isfinite(X).all(axis=(0, 2))
    if not finite.all():
        raise ValueError(f"{name} must be finite, got NaN or infinity in {_listed(ch_names, ~finite)}")
    flat = np.ptp(X, axis=(0, 2)) == 0 if X.size else np.zeros(X.shape[1], dtype=bool)
    if flat.any():
        raise ValueError(f"{name} must vary in every channel, got a flat {_listed(ch_names, flat)}")
    scale = float(np.median(X.std(axis=(0, 2)))) if X.size else 1.0
    if scale < VOLTS_BELOW:
        warnings.warn(
            f"{name} should be in microvolt, but its channels have a standard deviation of {scale:.1e}; "
            "multiply volts by 1e6",
            UserWarning,
            stacklevel=3,
        )


def check_labels(name: str, y: NDArray[Any], classes: Iterable[Any] = ()) -> NDArray[Any]:
    """Return the classes that occur, in order; there must be two or more, and all of ``classes``."""
    found: NDArray[Any] = np.unique(y)
    missing = [label for label in classes if label not in found]
    if missing:
        raise ValueError(f"{name} must hold every class, got {len(y)} trials and none of {missing[0]!r}")
    if len(found) < 2:
        raise ValueError(f"{name} must hold at least two classes, got {', '.join(map(repr, found.tolist()))}")
    return found


def band_filter(low: float | None, high: float | None, sfreq: float) -> NDArray[np.float64]:
    """Return the second-order sections of a Butterworth filter of order four.

    Parameters
    ----------
    low, high : float or None
        Pass band in hertz; None leaves that side open.
    sfreq : float
        Sampling rate in hertz.
    """
    edges = [f for f in (low, high) if f is not None]
    if not edges:
        raise ValueError("band must have a lower or an upper edge, got (None, None)")
    if min(edges) <= 0 or max(edges) >= sfreq / 2 or (len(edges) == 2 and edges[0] >= edges[1]):
        raise ValueError(
            f"band must have 0 < low < high < {sfreq / 2:g} Hz, half the sampling rate, got ({low}, {high})"
        )
    if len(edges) == 2:
        sos: NDArray[np.float64] = butter(ORDER, edges, "bandpass", output="sos", fs=sfreq)
    else:
        sos = butter(ORDER, edges[0], "highpass" if high is None else "lowpass", output="sos", fs=sfreq)
    return sos


def filter_signals(x: NDArray[Any], sos: NDArray[np.float64], *, causal: bool) -> NDArray[np.float64]:
    """Filter along the last axis: forwards and backwards (no delay), or forwards only.

    Parameters
    ----------
    x : float array, shape (..., time)
    sos : float array, shape (section, 6)
    causal : bool
        Forwards only, started as if the first sample had always been there.
    """
    x = np.asarray(x, np.float64)
    if causal:
        zi = sosfilt_zi(sos).reshape(len(sos), *[1] * (x.ndim - 1), 2)
        filtered: NDArray[np.float64] = sosfilt(sos, x, zi=zi * x[..., :1])[0]
        return filtered
    usual = 3 * (2 * len(sos) + 1)
    both: NDArray[np.float64] = sosfiltfilt(sos, x, padlen=min(usual, x.shape[-1] - 1))
    return both


@dataclass(frozen=True, eq=False)
class Trials:
    """Signals around a cue, with what is known of every trial.

    Parameters
    ----------
    X : float32 array, shape (trial, channel, time)
        Microvolt.
    y : array of str or int, shape (trial,)
        Label of each trial.
    metadata : DataFrame, one row a trial
        Columns ``subject``, ``session`` and ``run``, kept as text.
    ch_names : sequence of str
    sfreq : float
        Sampling rate in hertz.
    tmin : float
        Time of the first sample relative to the cue, in seconds.
    info : mne.Info, optional
        Electrode positions and the like, for :meth:`to_epochs`.
    notes : tuple of str
        What was dropped or converted while reading.

    Raises
    ------
    ValueError
        If shapes disagree, or a channel is flat or holds NaN.

    Examples
    --------
    >>> X = np.random.default_rng(0).normal(size=(4, 2, 100))
    >>> metadata = pd.DataFrame({"subject": ["1", "1", "2", "2"], "session": "1", "run": ["1", "2", "1", "2"]})
    >>> trials = Trials(X, np.array(["left", "right"] * 2), metadata, ["C3", "C4"], sfreq=50, tmin=-1)
    >>> trials.select(subject="2").crop(0, 1).X.shape
    (2, 2, 50)
    """

    X: NDArray[np.float32]
    y: NDArray[Any]
    metadata: pd.DataFrame
    ch_names: Sequence[str]
    sfreq: float
    tmin: float
    info: Any | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        X = np.asarray(self.X, dtype=np.float32)
        n_trials, n_chans, _ = check_shape("X", X, "trial", "channel", "time")
        y = np.asarray(self.y)
        check_shape("y", y, n_trials)
        if len(self.ch_names) != n_chans:
            raise ValueError(f"ch_names must name {n_chans} channels like X, got {len(self.ch_names)}")
        missing = [key for key in KEYS if key not in self.metadata]
        if missing:
            raise ValueError(
                f"metadata must have columns subject, session, run; {', '.join(missing)} missing"
            )
        if len(self.metadata) != n_trials:
            raise ValueError(f"metadata must have {n_trials} rows like X, got {len(self.metadata)}")
        if not self.sfreq > 0:
            raise ValueError(f"sfreq must be more than 0, got {self.sfreq}")
        check_signals("X", X, self.ch_names)
        metadata = self.metadata.reset_index(drop=True).astype(dict.fromkeys(KEYS, str))
        for name, value in {"X": X, "y": y, "metadata": metadata, "ch_names": tuple(self.ch_names)}.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.X)

    def select(
        self,
        *,
        subject: str | Iterable[str] | None = None,
        session: str | Iterable[str] | None = None,
        run: str | Iterable[str] | None = None,
    ) -> Self:
        """Return the trials of some subjects, sessions or runs.

        Parameters
        ----------
        subject, session, run : str or sequence of str, optional
            None keeps all.

        Raises
        ------
        ValueError
            If a value does not occur; the error lists those that do.
        """
        keep = np.ones(len(self), dtype=bool)
        for key, wanted in (("subject", subject), ("session", session), ("run", run)):
            if wanted is None:
                continue
            values = [wanted] if isinstance(wanted, str) or not isinstance(wanted, Iterable) else list(wanted)
            present = self.metadata[key].unique().tolist()
            for value in map(str, values):
                if value not in present:
                    raise ValueError(f"{key} must be one of {', '.join(present)}, got {value!r}")
            keep &= self.metadata[key].isin([str(value) for value in values]).to_numpy()
        return replace(self, X=self.X[keep], y=self.y[keep], metadata=self.metadata[keep])

    def crop(self, tmin: float, tmax: float) -> Self:
        """Return the samples from ``tmin`` up to but not including ``tmax``, seconds relative to the cue.

        Four seconds at 250 Hz are 1000 samples; MNE, which includes the last one, would keep 1001.
        """
        start = round((tmin - self.tmin) * self.sfreq)
        stop = round((tmax - self.tmin) * self.sfreq)
        n_times = self.X.shape[2]
        if not 0 <= start < stop <= n_times:
            end = self.tmin + n_times / self.sfreq
            raise ValueError(f"crop must lie within {self.tmin:g} to {end:g} s, got {tmin:g} to {tmax:g} s")
        return replace(self, X=self.X[:, :, start:stop], tmin=self.tmin + start / self.sfreq)

    def to_epochs(self) -> Any:
        """Return an :class:`mne.EpochsArray` in volts, with labels as events and the metadata."""
        import mne

        info = self.info
        if info is None:
            info = mne.create_info(list(self.ch_names), self.sfreq, "eeg")
        classes, codes = np.unique(self.y, return_inverse=True)
        # Any distinct samples do: trials of several recordings share no clock.
        events = np.column_stack([np.arange(len(self)), np.zeros(len(self), int), codes + 1])
        return mne.EpochsArray(
            self.X.astype(np.float64) * 1e-6,
            info,
            events=events,
            tmin=self.tmin,
            event_id={str(label): code for code, label in enumerate(classes, start=1)},
            metadata=self.metadata,
            verbose="error",
        )

    @classmethod
    def from_epochs(cls, epochs: Any) -> Self:
        """Take the EEG channels of :class:`mne.Epochs` that are not marked as bad, with event names as labels.

        Parameters
        ----------
        epochs : mne.Epochs
            Columns ``subject``, ``session``, ``run`` of its metadata are kept; each that is missing becomes "1".

        Returns
        -------
        Trials
        """
        picked = epochs.copy().pick("eeg", exclude="bads")
        names = {code: name for name, code in picked.event_id.items()}
        metadata = picked.metadata if picked.metadata is not None else pd.DataFrame(index=range(len(picked)))
        return cls(
            X=picked.get_data(copy=False) * 1e6,
            y=np.asarray([names[code] for code in picked.events[:, 2]]),
            metadata=metadata.assign(**{key: "1" for key in KEYS if key not in metadata}),
            ch_names=picked.ch_names,
            sfreq=float(picked.info["sfreq"]),
            tmin=float(picked.tmin),
            info=picked.info,
        )


def load_eeg(
    paths: str | Path | Sequence[str | Path],
    *,
    events: Mapping[str, str] = {"T1": "left", "T2": "right"},
    tmin: float = 0.0,
    tmax: float = 4.0,
    channels: str | Sequence[str] = "eeg",
    band: tuple[float | None, float | None] | None = None,
    causal: bool = False,
    resample: float | None = None,
    names: str | None = None,
) -> Trials:
    """Cut trials from recordings.

    Parameters
    ----------
    paths : str, Path or sequence of them
        Files (EDF, BDF, GDF, FIF, BrainVision), a folder of them, or a BIDS folder, which needs the extra "bids".
    events : mapping of str to str
        Label of each annotation that marks a cue. The default names those of the PhysioNet motor imagery data.
    tmin, tmax : float
        First sample and end of each trial, in seconds relative to the cue; the end is not included.
    channels : "eeg" or sequence of str, default "eeg"
        "eeg" takes all EEG channels that are neither marked as bad nor called EOG, ECG or EMG.
    band : (float or None, float or None), optional
        Pass band in hertz. The filter runs over the continuous recording, so trials have no edges.
    causal : bool, default False
        Filter forwards only, as online decoding must. The default is zero-phase: later samples, the cue's
        response among them, leak into earlier ones.
    resample : float, optional
        New sampling rate in hertz, after the filter.
    names : str, optional
        Regular expression with groups ``subject``, ``session`` and ``run`` that is searched in each file's name
        without its suffix, such as ``"A(?P<subject>[0-9]+)(?P<session>[TE])"``. By default names like
        ``sub-01_ses-2_run-03_eeg`` and ``S007R04`` are understood. What a name does not tell becomes "1", and runs are
        counted in the order of the files.

    Returns
    -------
    Trials
        Channel names are spelt as in the 10-05 system where they belong to it.

    Raises
    ------
    FileNotFoundError
        If there is no file.
    ValueError
        If a file has no annotations or none that ``events`` names, a channel is flat or holds NaN, files disagree in
        channels or sampling rate, or there is one class only.

    Warns
    -----
    UserWarning
        If an EDF, BDF or BrainVision recording ends before its header or its markers say; what is there is read.

    Examples
    --------
    >>> import mne, tempfile
    >>> signals = np.random.default_rng(0).normal(size=(2, 2000)) * 1e-5
    >>> raw = mne.io.RawArray(signals, mne.create_info(["C3..", "C4.."], 100, "eeg"), verbose="error")
    >>> _ = raw.set_annotations(mne.Annotations([2, 6, 10, 14], 4, ["T1", "T2", "T1", "T2"]))
    >>> path = Path(tempfile.mkdtemp()) / "S001R04.fif"
    >>> raw.save(path, verbose="error")
    [...]
    >>> trials = load_eeg(path, tmin=-1, tmax=3, band=(8, 30))
    >>> trials.X.shape, trials.ch_names, trials.metadata.run.unique().tolist()
    ((4, 2, 400), ('C3', 'C4'), ['04'])
    """
    files = _find(paths)
    cuts: list[tuple[NDArray[np.float32], NDArray[np.str_]]] = []
    keys: list[dict[str, str]] = []
    notes: list[str] = []
    used: set[str] = set()
    info: Any = None
    for path, is_bids in files:
        raw, bads = _read(path, is_bids, channels)
        present = set(raw.annotations.description)
        if not present & set(events):
            raise ValueError(f"events must name annotations of {path.name}, got none; {_shown(present)}")
        used |= present
        if info is not None and raw.ch_names != info.ch_names:
            differing = sorted(set(raw.ch_names) ^ set(info.ch_names))
            raise ValueError(
                f"channels of {path.name} must be those of {files[0][0].name}, "
                f"differing: {', '.join(differing) or 'their order'}"
            )
        check_signals(path.name, 1e6 * raw.get_data()[None], raw.ch_names)
        if band is not None:
            sos = band_filter(*band, raw.info["sfreq"])
            raw.apply_function(filter_signals, sos=sos, causal=causal, channel_wise=False, verbose="error")
        if resample is not None:
            raw.resample(resample, verbose="error")
        if info is not None and raw.info["sfreq"] != info["sfreq"]:
            raise ValueError(
                f"files must have one sampling rate, got {info['sfreq']:g} Hz in {files[0][0].name} and "
                f"{raw.info['sfreq']:g} Hz in {path.name}; give resample"
            )
        info = raw.info
        with reading(f"trials of {path.name} cannot be cut:"):
            X, y, dropped = _cut(raw, events, tmin, tmax)
        if bads:
            notes.append(f"{path.name}: bad channels left out: {', '.join(bads)}")
        if dropped:
            notes.append(f"{path.name}: {dropped} trials left out, marked as bad or beyond the recording")
        entities = _entities(path, names, keys)
        keys += [entities] * len(X)
        cuts.append((X, y))
    read = listed(path.name for path, _ in files)
    never = [name for name in events if name not in used]
    if never:
        raise ValueError(
            f"events must occur, but {', '.join(map(repr, never))} does not; {_shown(used)} in {read}"
        )
    y = np.concatenate([labels for _, labels in cuts])
    with reading(f"trials of {read} cannot be decoded:"):
        check_labels("events", y, events.values())
    return Trials(
        X=np.concatenate([signals for signals, _ in cuts]),
        y=y,
        metadata=pd.DataFrame(keys, columns=list(KEYS)),
        ch_names=info.ch_names,
        sfreq=float(info["sfreq"]),
        tmin=tmin,
        info=info,
        notes=tuple(notes),
    )


def standard_names(ch_names: Sequence[str]) -> dict[str, str]:
    """Return the spelling of the 10-05 system for each channel that belongs to it.

    Examples
    --------
    >>> standard_names(["Fc5.", "EEG FP1-Ref", "EEG-C3", "EOG"])
    {'Fc5.': 'FC5', 'EEG FP1-Ref': 'Fp1', 'EEG-C3': 'C3'}
    """
    known = {ch.lower(): ch for ch in _montage().ch_names}
    bare = {ch: re.sub(r"^eeg[\s-]+|(-ref)?[\s.]*$", "", ch.lower()) for ch in ch_names}
    return {ch: known[name] for ch, name in bare.items() if name in known}


def _montage() -> Any:
    import mne

    # The first is the new name of the second.
    builtin = mne.channels.get_builtin_montages()
    return mne.channels.make_standard_montage(
        "colin27_1005" if "colin27_1005" in builtin else "standard_1005"
    )


def _listed(ch_names: Sequence[str], mask: NDArray[np.bool_]) -> str:
    names = [name for name, hit in zip(ch_names, mask, strict=True) if hit]
    return f"channel {names[0]}" if len(names) == 1 else f"channels {', '.join(names)}"


def _shown(descriptions: Iterable[str]) -> str:
    return f"annotations are {', '.join(map(repr, sorted(set(descriptions)))) or 'none'}"


def _find(paths: str | Path | Sequence[str | Path]) -> list[tuple[Path, bool]]:
    """Return the files, and for each whether it lies in a BIDS folder."""
    found: list[tuple[Path, bool]] = []
    for path in [Path(paths)] if isinstance(paths, str | Path) else list(map(Path, paths)):
        if path.is_file():
            if path.suffix.lower() not in SUFFIXES:
                raise ValueError(f"paths must be files of type {', '.join(SUFFIXES)}, got {path.name}")
            found.append((path, False))
        elif not path.is_dir():
            raise FileNotFoundError(f"{path} does not exist")
        else:
            is_bids = (path / "dataset_description.json").is_file()
            pattern = "sub-*/**/eeg/*_eeg.*" if is_bids else "*"
            files = sorted(p for p in path.glob(pattern) if p.suffix.lower() in SUFFIXES and p.is_file())
            if not files:
                raise FileNotFoundError(f"{path} must hold files of type {', '.join(SUFFIXES)}, got none")
            found += [(p, is_bids) for p in files]
    if not found:
        raise ValueError("paths must name at least one file, got none")
    return found


def _entities(path: Path, names: str | None, before: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return subject, session and run of a file; ``before`` are those of the trials already read."""
    found: dict[str, str] = {}
    for pattern in NAMES if names is None else (names,):
        match = re.search(pattern, path.stem)
        if match:
            found = {key: value for key, value in match.groupdict().items() if value is not None}
            break
    if names is not None and not found:
        raise ValueError(f"names must match the name of every file, got {names!r} and {path.stem}")
    owner = {key: found.get(key, "1") for key in ("subject", "session")}
    earlier = {old["run"] for old in before if all(old[key] == owner[key] for key in owner)}
    return {**owner, "run": found.get("run", str(len(earlier) + 1))}


def _read(path: Path, is_bids: bool, channels: str | Sequence[str]) -> tuple[Any, list[str]]:
    """Read one recording, spell its channels as in the 10-05 system and pick; return it and its bad channels."""
    import mne

    try:
        for part in _parts(path).values():
            if part.exists():
                check_file(part)
        if is_bids:
            mne_bids = import_extra("mne_bids", "bids", "reading a BIDS folder")
            raw = mne_bids.read_raw_bids(
                mne_bids.get_bids_path_from_fname(path, verbose="error"), verbose="error"
            )
        else:
            raw = mne.io.read_raw(path, verbose="error")
        raw.load_data(verbose="error")
        beyond = _what_is_missing(path, len(raw.times))
    except ImportError:
        raise
    except Exception as error:  # readers meet damaged files with errors of every kind, assertions among them
        raise refusal(f"{path.name} cannot be read:", error) from None
    if beyond:
        warnings.warn(f"{path.name} is cut: {beyond}; what is there is read", UserWarning, stacklevel=3)
    if not len(raw.annotations):
        raise ValueError(f"{path.name} must have annotations that mark the cues, got none")
    raw.rename_channels(standard_names(raw.ch_names), verbose="error")
    # Some formats call everything EEG, and a decoder must not be handed the eyes by mistake.
    kinds = (
        {ch: re.match("eog|ecg|emg", ch.lower()) for ch in raw.copy().pick("eeg").ch_names}
        if "eeg" in raw
        else {}
    )
    raw.set_channel_types({ch: kind[0] for ch, kind in kinds.items() if kind}, verbose="error")
    bads: list[str] = []
    if isinstance(channels, str):
        check_option("channels", channels, ("eeg",))
        bads = list(raw.info["bads"])
        if "eeg" not in raw or set(raw.copy().pick("eeg", exclude=()).ch_names) <= set(bads):
            raise ValueError(f"{path.name} must have EEG channels, got none")
        raw.pick("eeg", exclude="bads", verbose="error")
    else:
        missing = [ch for ch in channels if ch not in raw.ch_names]
        if missing:
            raise ValueError(f"channels must be in {path.name}, missing: {', '.join(missing)}")
        raw.pick(list(channels), verbose="error")
    montage = _montage()
    if raw.get_montage() is None and set(raw.ch_names) <= set(montage.ch_names):
        raw.set_montage(montage, verbose="error")
    return raw, bads


def _what_is_missing(path: Path, n_times: int) -> str:
    """Return what a recording should hold beyond its end: mne reads one that is cut without a word."""
    if path.suffix.lower() in (".edf", ".bdf"):
        with path.open("rb") as file:
            head = file.read(256)
            n_signals = int(head[252:256])
            file.seek(256 + 216 * n_signals)
            n_samples = sum(int(file.read(8)) for _ in range(n_signals))
        width = 3 if path.suffix.lower() == ".bdf" else 2  # bytes
        n_bytes = int(head[184:192]) + int(head[236:244]) * n_samples * width - path.stat().st_size
        return f"{n_bytes} bytes of its records are missing" if n_bytes > 0 else ""
    markers = _parts(path).get("MarkerFile")
    if markers is None or not markers.is_file():
        return ""
    places = re.findall(r"(?m)^Mk\d+=[^,]*,[^,]*,(\d{1,18})", markers.read_text("latin-1"))
    beyond = sum(int(place) > n_times for place in places)
    return f"{beyond} of its markers lie beyond its signals" if beyond else ""


def _parts(path: Path) -> dict[str, Path]:
    """Return the files that a header of BrainVision names; they must lie in its folder."""
    if path.suffix.lower() != ".vhdr":
        return {}
    named = re.findall(r"(?m)^\s*(DataFile|MarkerFile)\s*=\s*(.*?)\s*$", path.read_text("latin-1"))
    return {key: below(path.parent, name) for key, name in named}


def _cut(
    raw: Any, events: Mapping[str, str], tmin: float, tmax: float
) -> tuple[NDArray[np.float32], NDArray[np.str_], int]:
    """Cut one recording; return signals in microvolt, labels, and the number of trials left out."""
    import mne

    codes = {
        name: code for code, name in enumerate(events, start=1) if name in set(raw.annotations.description)
    }
    cues, _ = mne.events_from_annotations(raw, codes, verbose="error")
    epochs = mne.Epochs(
        raw,
        cues,
        codes,
        tmin,
        tmax - 1 / raw.info["sfreq"],
        baseline=None,
        preload=True,
        event_repeated="drop",
        verbose="error",
    )
    labels = {codes[name]: str(events[name]) for name in codes}
    X = (1e6 * epochs.get_data(copy=False)).astype(np.float32)
    return X, np.asarray([labels[code] for code in epochs.events[:, 2]], dtype=str), len(cues) - len(epochs)
