"""Publications that models and methods come from: what reports cite and ``neuroattn cite`` prints."""

from __future__ import annotations

from dataclasses import dataclass

from neuroattn._checks import check_option


@dataclass(frozen=True)
class Reference:
    """A publication.

    Parameters
    ----------
    key : str
        Of its BibTeX entry.
    authors : str
        "Family AB, Family C"; "et al." stands for more.
    year : int
    title, venue : str
    doi : str, default ""

    Examples
    --------
    >>> himalaya = REFERENCES["duprelatour2022"]
    >>> himalaya.text[:58]
    'Dupré la Tour T, Eickenberg M, Nunez-Elizalde AO, Gallant '
    >>> print(himalaya.bibtex)
    @article{duprelatour2022,
      author = {Dupré la Tour, T and Eickenberg, M and Nunez-Elizalde, AO and Gallant, JL},
      title = {Feature-space selection with banded ridge regression},
      journal = {NeuroImage 264:119728},
      year = {2022},
      doi = {10.1016/j.neuroimage.2022.119728},
    }
    """

    key: str
    authors: str
    year: int
    title: str
    venue: str
    doi: str = ""

    @property
    def text(self) -> str:
        """One line for a list of references, without the DOI."""
        return f"{self.authors} ({self.year}). {self.title}. {self.venue}."

    @property
    def bibtex(self) -> str:
        """A BibTeX entry."""
        people = []
        for name in self.authors.split(", "):
            family, _, initials = name.rpartition(" ")
            people.append("others" if name == "et al." else f"{family}, {initials}")
        fields = {
            "author": " and ".join(people),
            "title": self.title,
            "journal": self.venue,
            "year": str(self.year),
            "doi": self.doi,
        }
        lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
        return "\n".join([f"@article{{{self.key},", *lines, "}"])


_ALL = (
    Reference(
        "adeli2025",
        "Adeli H, Sun M, Kriegeskorte N",
        2025,
        "Transformer brain encoders explain human high-level visual responses",
        "arXiv:2505.17329",
        "10.48550/arXiv.2505.17329",
    ),
    Reference(
        "duprelatour2022",
        "Dupré la Tour T, Eickenberg M, Nunez-Elizalde AO, Gallant JL",
        2022,
        "Feature-space selection with banded ridge regression",
        "NeuroImage 264:119728",
        "10.1016/j.neuroimage.2022.119728",
    ),
    Reference(
        "klindt2017",
        "Klindt DA, Ecker AS, Euler T, Bethge M",
        2017,
        "Neural system identification for large populations separating “what” and “where”",
        "Advances in Neural Information Processing Systems 30. arXiv:1711.02653",
        "10.48550/arXiv.1711.02653",
    ),
    Reference(
        "psomas2025",
        "Psomas B, Christopoulos D, Baltzi E, Kakogeorgiou I, Aravanis T, Komodakis N, Karantzalos K, Avrithis Y, "
        "Tolias G",
        2025,
        "Attention, please! Revisiting attentive probing through the lens of efficiency",
        "arXiv:2506.10178",
        "10.48550/arXiv.2506.10178",
    ),
    Reference(
        "allen2022",
        "Allen EJ, St-Yves G, Wu Y, et al.",
        2022,
        "A massive 7T fMRI dataset to bridge cognitive neuroscience and artificial intelligence",
        "Nature Neuroscience 25:116–126",
        "10.1038/s41593-021-00962-x",
    ),
    Reference(
        "abraham2014",
        "Abraham A, Pedregosa F, Eickenberg M, et al.",
        2014,
        "Machine learning for neuroimaging with scikit-learn",
        "Frontiers in Neuroinformatics 8:14",
        "10.3389/fninf.2014.00014",
    ),
    Reference(
        "wimpff2024",
        "Wimpff M, Gizzi L, Zerfowski J, Yang B",
        2024,
        "EEG motor imagery decoding: a framework for comparative analysis with channel attention mechanisms",
        "Journal of Neural Engineering 21:036020",
        "10.1088/1741-2552/ad48b9",
    ),
    Reference(
        "barachant2013",
        "Barachant A, Bonnet S, Congedo M, Jutten C",
        2013,
        "Classification of covariance matrices using a Riemannian-based kernel for BCI applications",
        "Neurocomputing 112:172–178",
        "10.1016/j.neucom.2012.12.039",
    ),
    Reference(
        "blankertz2008",
        "Blankertz B, Tomioka R, Lemm S, Kawanabe M, Müller K-R",
        2008,
        "Optimizing spatial filters for robust EEG single-trial analysis",
        "IEEE Signal Processing Magazine 25:41–56",
        "10.1109/MSP.2008.4408441",
    ),
    Reference(
        "combrisson2015",
        "Combrisson E, Jerbi K",
        2015,
        "Exceeding chance level by chance: the caveat of theoretical chance levels in brain signal classification and "
        "statistical assessment of decoding accuracy",
        "Journal of Neuroscience Methods 250:126–136",
        "10.1016/j.jneumeth.2015.01.010",
    ),
    Reference(
        "haufe2014",
        "Haufe S, Meinecke F, Görgen K, Dähne S, Haynes J-D, Blankertz B, Bießmann F",
        2014,
        "On the interpretation of weight vectors of linear models in multivariate neuroimaging",
        "NeuroImage 87:96–110",
        "10.1016/j.neuroimage.2013.10.067",
    ),
    Reference(
        "gramfort2013",
        "Gramfort A, Luessi M, Larson E, et al.",
        2013,
        "MEG and EEG data analysis with MNE-Python",
        "Frontiers in Neuroscience 7:267",
        "10.3389/fnins.2013.00267",
    ),
    Reference(
        "nichols2002",
        "Nichols TE, Holmes AP",
        2002,
        "Nonparametric permutation tests for functional neuroimaging: a primer with examples",
        "Human Brain Mapping 15:1–25",
        "10.1002/hbm.1058",
    ),
    Reference(
        "jayaram2018",
        "Jayaram V, Barachant A",
        2018,
        "MOABB: trustworthy algorithm benchmarking for BCIs",
        "Journal of Neural Engineering 15:066011",
        "10.1088/1741-2552/aadea0",
    ),
    Reference("hu2018", "Hu J, Shen L, Sun G", 2018, "Squeeze-and-excitation networks", "CVPR"),
    Reference(
        "hu2018gather",
        "Hu J, Shen L, Albanie S, Sun G, Vedaldi A",
        2018,
        "Gather-excite: exploiting feature context in convolutional neural networks",
        "NeurIPS",
    ),
    Reference(
        "gao2019",
        "Gao Z, Xie J, Wang Q, Li P",
        2019,
        "Global second-order pooling convolutional networks",
        "CVPR",
    ),
    Reference(
        "qin2021", "Qin Z, Zhang P, Wu F, Li X", 2021, "FcaNet: frequency channel attention networks", "ICCV"
    ),
    Reference("zhang2018", "Zhang H, et al.", 2018, "Context encoding for semantic segmentation", "CVPR"),
    Reference(
        "wang2020",
        "Wang Q, et al.",
        2020,
        "ECA-Net: efficient channel attention for deep convolutional neural networks",
        "CVPR",
    ),
    Reference(
        "yang2020",
        "Yang Z, Zhu L, Wu Y, Yang Y",
        2020,
        "Gated channel transformation for visual recognition",
        "CVPR",
    ),
    Reference(
        "lee2019",
        "Lee HJ, Kim HE, Nam H",
        2019,
        "SRM: a style-based recalibration module for convolutional neural networks",
        "ICCV",
    ),
    Reference(
        "woo2018",
        "Woo S, Park J, Lee JY, Kweon IS",
        2018,
        "CBAM: convolutional block attention module",
        "ECCV",
    ),
    Reference(
        "wu2022",
        "Wu Z, et al.",
        2022,
        "CAT: learning to collaborate channel and spatial attention from multi-information fusion",
        "IET Computer Vision",
    ),
    Reference(
        "fang2024",
        "Fang Y, Yu J, Zhang H, van der Lans R, Shi B",
        2024,
        "OAT: object-level attention transformer for gaze scanpath prediction",
        "ECCV",
        "10.1007/978-3-031-73001-6_21",
    ),
    Reference(
        "mcfadden1974",
        "McFadden D",
        1974,
        "Conditional logit analysis of qualitative choice behavior",
        "Frontiers in Econometrics, pp. 105-142",
    ),
    Reference(
        "dewhurst2012",
        "Dewhurst R, Nyström M, Jarodzka H, Foulsham T, Johansson R, Holmqvist K",
        2012,
        "It depends on how you look at it: scanpath comparison in multiple dimensions with MultiMatch, a vector-based "
        "approach",
        "Behavior Research Methods 44:1079-1100",
        "10.3758/s13428-012-0212-2",
    ),
    Reference(
        "gupta2021",
        "Gupta SK, Zhang M, Wu CC, Wolfe JM, Kreiman G",
        2021,
        "Visual search asymmetry: deep nets and humans share similar inherent biases",
        "NeurIPS 34",
    ),
    Reference(
        "zhang2018search",
        "Zhang M, Feng J, Ma KT, Lim JH, Zhao Q, Kreiman G",
        2018,
        "Finding any Waldo with zero-shot invariant and efficient visual search",
        "Nature Communications 9:3730",
        "10.1038/s41467-018-06217-x",
    ),
    Reference(
        "jahshan2026",
        "Jahshan Z, Ben Ishay B, Yavits L",
        2026,
        "MANAR: memory-augmented attention with navigational abstract conceptual representation",
        "arXiv:2603.18676",
        "10.48550/arXiv.2603.18676",
    ),
)
REFERENCES = {reference.key: reference for reference in _ALL}

#: What ``neuroattn cite`` knows: name, and the keys of what to cite.
MODELS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("attention", "attention-layermix", "convolution", "pca-regression"), ("adeli2025",)),
    **dict.fromkeys(("ridge", "banded-ridge", "pooled-ridge"), ("duprelatour2022",)),
    **dict.fromkeys(("factorized", "gaussian"), ("klindt2017",)),
    "probe": ("psomas2025",),
    "basenet": ("wimpff2024",),
    "csp-lda": ("blankertz2008",),
    "tangent-space": ("barachant2013",),
    **dict.fromkeys(("se", "se-l2"), ("hu2018",)),
    "gsop": ("gao2019",),
    "fca": ("qin2021",),
    "encnet": ("zhang2018",),
    "eca": ("wang2020",),
    **dict.fromkeys(("ge-theta-minus", "ge-theta", "ge-theta-plus"), ("hu2018gather",)),
    **dict.fromkeys(("gct", "gct-gap"), ("yang2020",)),
    **dict.fromkeys(("srm", "srm-cross"), ("lee2019",)),
    "cbam": ("woo2018",),
    "cat": ("wu2022",),
    "catlite": ("wu2022", "wimpff2024"),
    "oat": ("fang2024",),
    "eccnet": ("gupta2021",),
    "ivsn": ("zhang2018search",),
    "manar": ("jahshan2026",),
}


def references_of(model: str) -> list[Reference]:
    """Return what to cite for a model; parts are joined by a plus sign.

    Parameters
    ----------
    model : str
        Names as the commands have them.

    Raises
    ------
    ValueError
        If a name is not known.

    Examples
    --------
    >>> [reference.key for reference in references_of("basenet+eca")]
    ['wimpff2024', 'wang2020']
    """
    names = [check_option("model", part, MODELS) for part in model.lower().split("+")]
    return [REFERENCES[key] for key in dict.fromkeys(key for name in names for key in MODELS[name])]
