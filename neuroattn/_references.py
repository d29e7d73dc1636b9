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
            people.append("others" if name == "et al." else f"{family}, {initials}" if family else name)
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
    Reference(
        "styves2018",
        "St-Yves G, Naselaris T",
        2018,
        "The feature-weighted receptive field: an interpretable encoding model for complex feature spaces",
        "NeuroImage 180:188–202",
        "10.1016/j.neuroimage.2017.06.035",
    ),
    Reference(
        "vaswani2017",
        "Vaswani A, Shazeer N, Parmar N, et al.",
        2017,
        "Attention is all you need",
        "NeurIPS 30. arXiv:1706.03762",
        "10.48550/arXiv.1706.03762",
    ),
    Reference(
        "jaegle2021",
        "Jaegle A, Gimeno F, Brock A, Zisserman A, Vinyals O, Carreira J",
        2021,
        "Perceiver: general perception with iterative attention",
        "ICML. arXiv:2103.03206",
        "10.48550/arXiv.2103.03206",
    ),
    Reference(
        "jaegle2022",
        "Jaegle A, Borgeaud S, Alayrac J-B, et al.",
        2022,
        "Perceiver IO: a general architecture for structured inputs and outputs",
        "ICLR. arXiv:2107.14795",
        "10.48550/arXiv.2107.14795",
    ),
    Reference(
        "lee2019set",
        "Lee J, Lee Y, Kim J, Kosiorek AR, Choi S, Teh YW",
        2019,
        "Set Transformer: a framework for attention-based permutation-invariant neural networks",
        "ICML. arXiv:1810.00825",
        "10.48550/arXiv.1810.00825",
    ),
    Reference(
        "han2024agent",
        "Han D, et al.",
        2024,
        "Agent attention: on the integration of softmax and linear attention",
        "ECCV. arXiv:2312.08874",
        "10.48550/arXiv.2312.08874",
    ),
    Reference(
        "han2024inline",
        "Han D, et al.",
        2024,
        "Bridging the divide: reconsidering softmax and linear attention",
        "NeurIPS 37. arXiv:2412.06590",
        "10.48550/arXiv.2412.06590",
    ),
    Reference(
        "pan2022",
        "Pan Z, Cai J, Zhuang B",
        2022,
        "Fast vision transformers with HiLo attention",
        "NeurIPS 35. arXiv:2205.13213",
        "10.48550/arXiv.2205.13213",
    ),
    Reference(
        "bae2026",
        "Bae, et al.",
        2026,
        "Affine-scaled attention: towards flexible and stable transformer attention",
        "arXiv:2602.23057",
        "10.48550/arXiv.2602.23057",
    ),
    Reference(
        "jin2025",
        "Jin P, Zhu B, Yuan L, Yan S",
        2025,
        "MoH: multi-head attention as mixture-of-head attention",
        "ICML. arXiv:2410.11842",
        "10.48550/arXiv.2410.11842",
    ),
    Reference(
        "tay2021",
        "Tay Y, Bahri D, Metzler D, Juan D-C, Zhao Z, Zheng C",
        2021,
        "Synthesizer: rethinking self-attention for transformer models",
        "ICML. arXiv:2005.00743",
        "10.48550/arXiv.2005.00743",
    ),
    Reference(
        "tan2019",
        "Tan M, Le QV",
        2019,
        "EfficientNet: rethinking model scaling for convolutional neural networks",
        "ICML. arXiv:1905.11946",
        "10.48550/arXiv.1905.11946",
    ),
    Reference(
        "simonyan2015",
        "Simonyan K, Zisserman A",
        2015,
        "Very deep convolutional networks for large-scale image recognition",
        "ICLR. arXiv:1409.1556",
        "10.48550/arXiv.1409.1556",
    ),
    Reference(
        "oquab2024",
        "Oquab M, Darcet T, Moutakanni T, et al.",
        2024,
        "DINOv2: learning robust visual features without supervision",
        "Transactions on Machine Learning Research. arXiv:2304.07193",
        "10.48550/arXiv.2304.07193",
    ),
    Reference(
        "radford2021",
        "Radford A, Kim JW, Hallacy C, et al.",
        2021,
        "Learning transferable visual models from natural language supervision",
        "ICML. arXiv:2103.00020",
        "10.48550/arXiv.2103.00020",
    ),
    Reference(
        "jarodzka2010",
        "Jarodzka H, Holmqvist K, Nyström M",
        2010,
        "A vector-based, multidimensional scanpath similarity measure",
        "ETRA",
        "10.1145/1743666.1743718",
    ),
    Reference(
        "cristino2010",
        "Cristino F, Mathôt S, Theeuwes J, Gilchrist ID",
        2010,
        "ScanMatch: a novel method for comparing fixation sequences",
        "Behavior Research Methods 42:692–700",
        "10.3758/BRM.42.3.692",
    ),
    Reference(
        "chen2021",
        "Chen X, Jiang M, Zhao Q",
        2021,
        "Predicting human scanpaths in visual question answering",
        "CVPR",
    ),
    Reference(
        "yang2020search",
        "Yang Z, Huang L, Chen Y, Wei Z, Ahn S, Zelinsky G, Samaras D, Hoai M",
        2020,
        "Predicting goal-directed human attention using inverse reinforcement learning",
        "CVPR. arXiv:2005.14310",
        "10.48550/arXiv.2005.14310",
    ),
    Reference(
        "mondal2023",
        "Mondal S, Yang Z, Ahn S, Samaras D, Zelinsky G, Hoai M",
        2023,
        "Gazeformer: scalable, effective and fast prediction of goal-directed human attention",
        "CVPR. arXiv:2303.15274",
        "10.48550/arXiv.2303.15274",
    ),
    Reference(
        "levenshtein1966",
        "Levenshtein VI",
        1966,
        "Binary codes capable of correcting deletions, insertions, and reversals",
        "Soviet Physics Doklady 10:707–710",
    ),
    Reference(
        "foulsham2008",
        "Foulsham T, Underwood G",
        2008,
        "What can saliency models predict about eye movements? Spatial and sequential aspects of fixations during "
        "encoding and recognition",
        "Journal of Vision 8(2):6",
        "10.1167/8.2.6",
    ),
    Reference(
        "wang2011",
        "Wang W, Chen C, Wang Y, Jiang T, Fang F, Yao Y",
        2011,
        "Simulating human saccadic scanpaths on natural images",
        "CVPR",
    ),
    Reference(
        "zanca2018",
        "Zanca D, Serchi V, Piu P, Rosini F, Rufa A",
        2018,
        "FixaTons: a collection of human fixations datasets and metrics for scanpath similarity",
        "arXiv:1802.02534",
        "10.48550/arXiv.1802.02534",
    ),
    Reference(
        "peters2005",
        "Peters RJ, Iyer A, Itti L, Koch C",
        2005,
        "Components of bottom-up gaze allocation in natural images",
        "Vision Research 45:2397–2416",
        "10.1016/j.visres.2005.03.019",
    ),
    Reference(
        "judd2009",
        "Judd T, Ehinger K, Durand F, Torralba A",
        2009,
        "Learning to predict where humans look",
        "ICCV",
    ),
    Reference(
        "borji2013",
        "Borji A, Sihite DN, Itti L",
        2013,
        "Quantitative analysis of human-model agreement in visual saliency modeling: a comparative study",
        "IEEE Transactions on Image Processing 22:55–69",
        "10.1109/TIP.2012.2210727",
    ),
    Reference(
        "tatler2005",
        "Tatler BW, Baddeley RJ, Gilchrist ID",
        2005,
        "Visual correlates of fixation selection: effects of scale and time",
        "Vision Research 45:643–659",
        "10.1016/j.visres.2004.09.017",
    ),
    Reference(
        "kuemmerer2015",
        "Kümmerer M, Wallis TSA, Bethge M",
        2015,
        "Information-theoretic model comparison unifies saliency metrics",
        "PNAS 112:16054–16059",
        "10.1073/pnas.1510393112",
    ),
    Reference(
        "owen2007",
        "Owen AB",
        2007,
        "The pigeonhole bootstrap",
        "Annals of Applied Statistics 1:386–411",
        "10.1214/07-AOAS122",
    ),
    Reference(
        "phipson2010",
        "Phipson B, Smyth GK",
        2010,
        "Permutation P-values should never be zero: calculating exact P-values when permutations are randomly drawn",
        "Statistical Applications in Genetics and Molecular Biology 9:39",
        "10.2202/1544-6115.1585",
    ),
    Reference(
        "lescroart2015",
        "Lescroart MD, Stansbury DE, Gallant JL",
        2015,
        "Fourier power, subjective distance, and object categories all provide plausible models of BOLD responses in "
        "scene-selective visual areas",
        "Frontiers in Computational Neuroscience 9:135",
        "10.3389/fncom.2015.00135",
    ),
    Reference(
        "walther2016",
        "Walther A, Nili H, Ejaz N, Alink A, Kriegeskorte N, Diedrichsen J",
        2016,
        "Reliability of dissimilarity measures for multi-voxel pattern analysis",
        "NeuroImage 137:188–200",
        "10.1016/j.neuroimage.2015.12.012",
    ),
    Reference(
        "diedrichsen2021",
        "Diedrichsen J, Berlot E, Mur M, Schütt HH, Shahbazi M, Kriegeskorte N",
        2021,
        "Comparing representational geometries using whitened unbiased-distance-matrix similarity",
        "Neurons, Behavior, Data Analysis, and Theory. arXiv:2007.02789",
        "10.48550/arXiv.2007.02789",
    ),
    Reference(
        "nili2014",
        "Nili H, Wingfield C, Walther A, Su L, Marslen-Wilson W, Kriegeskorte N",
        2014,
        "A toolbox for representational similarity analysis",
        "PLoS Computational Biology 10:e1003553",
        "10.1371/journal.pcbi.1003553",
    ),
)
REFERENCES = {reference.key: reference for reference in _ALL}

#: What ``neuroattn cite`` knows, by kind: name, and the keys of what to cite. None: it comes from no paper.
KINDS: dict[str, dict[str, tuple[str, ...]]] = {
    "Encoders": {
        **dict.fromkeys(
            ("attention", "attention-layermix", "shared-attention", "convolution", "pca-regression"), ("adeli2025",)
        ),
        **dict.fromkeys(("ridge", "banded-ridge", "pooled-ridge"), ("duprelatour2022",)),
        "factorized": ("klindt2017",),
        "gaussian": ("styves2018",),
        "probe": ("psomas2025",),
    },
    "EEG decoders": {
        "basenet": ("wimpff2024",),
        "csp-lda": ("blankertz2008",),
        "tangent-space": ("barachant2013",),
        "slow-signals": (),
    },
    "Channel attention": {
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
    },
    "Attention layers": {
        **dict.fromkeys(("softmax", "position"), ("vaswani2017",)),
        "manar": ("jahshan2026",),
        "latent": ("jaegle2021", "jaegle2022"),
        "isab": ("lee2019set",),
        "agent": ("han2024agent",),
        "inline": ("han2024inline",),
        "hilo": ("pan2022",),
        "probe": ("psomas2025",),
        "affine": ("bae2026",),
        "gated-heads": ("jin2025",),
        "static": ("tay2021",),
    },
    "Scanpath models": {
        "oat": ("fang2024",),
        "conditional-logit": ("mcfadden1974",),
        **dict.fromkeys(
            (
                "uniform", "centre-bias", "saliency-sampling", "memory-full-random", "nearest-unvisited",
                "position-markov", "gold-standard",
            ),
            (),
        ),
    },
    "Searchers": {
        **dict.fromkeys(("eccnet", "pixel-match"), ("gupta2021",)),
        "ivsn": ("zhang2018search",),
        "random-search": (),
    },
    "Image networks": {
        "demo": ("tan2019",),
        "vgg16": ("simonyan2015",),
        "dinov2_vitb14": ("oquab2024",),
        "clip_vitl14": ("radford2021",),
    },
    "Metrics": {
        **dict.fromkeys(("multimatch", "multimatch_pairs"), ("jarodzka2010", "dewhurst2012")),
        "scanmatch": ("cristino2010", "chen2021"),
        "sequence_score": ("yang2020search", "mondal2023"),
        "edit_distance": ("levenshtein1966", "mondal2023"),
        "grid_edit_distance": ("foulsham2008",),
        "tde": ("wang2011",),
        "stde": ("zanca2018",),
        **dict.fromkeys(("behaviour_vector", "behaviour_delta"), ("fang2024",)),
        **dict.fromkeys(
            ("saccades_to_target", "found_curve", "probability_mismatch", "scanpath_ratio"), ("yang2020search",)
        ),
        "nss": ("peters2005",),
        "auc": ("judd2009", "borji2013", "tatler2005"),
        **dict.fromkeys(("information_gain", "bits_per_fixation"), ("kuemmerer2015",)),
        **dict.fromkeys(("search_slopes", "asymmetry_index"), ("gupta2021",)),
        "noise_ceiling_from_ncsnr": ("allen2022",),
        "softmax_ensemble": ("adeli2025",),
        "variance_partitioning": ("lescroart2015",),
        "dissimilarities": ("walther2016",),
        "rdm_similarity": ("diedrichsen2021",),
        "rdm_noise_ceiling": ("nili2014",),
        "permutation_correlation": ("phipson2010", "nichols2002"),
        "group_summary": ("nichols2002",),
        "combine_datasets": ("jayaram2018",),
        "crossed_bootstrap": ("owen2007",),
        **dict.fromkeys(
            (
                "asymmetry_summary", "bootstrap_correlation", "cc", "cross_subject_ceiling", "fixation_map",
                "inter_observer", "length_matched", "map_consistency", "noise_ceiling_from_repeats",
                "paired_difference", "pearson_r", "r2_over_ceiling", "r2_over_ceiling_algonauts", "roi_summary",
                "same_observer", "shuffled_correlation", "sign_test", "sim", "slope_asymmetry",
            ),
            (),
        ),
    },
}  # fmt: skip
#: The same without the kinds.
MODELS = {name: keys for kind in KINDS.values() for name, keys in kind.items()}


def references_of(model: str) -> list[Reference]:
    """Return what to cite for a model, layer or metric; parts are joined by a plus sign.

    Parameters
    ----------
    model : str
        Names as the commands have them, and metrics as their functions are called.

    Returns
    -------
    list of Reference
        Empty for what comes from no paper.

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
