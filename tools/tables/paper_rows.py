"""What the rows of the paper's tables run here: settings, labels, trends. See make_tables.py."""

# The paper's word -> label, and the method that the row names. CBQ rows name none: they run --method, by default cbq.
METHODS = {"fp": ("original", None), "gptq": ("GPTQ", "gptq"), "omniquant": ("OmniQuant", "omniquant"),
           "cbq": ("CBQ", None), "cbq_star": ("CBQ*", "cbq_star"), "rptq": ("RPTQ", "rptq"),
           "qllm": ("QLLM", "qllm"), "os_plus": ("OS+", "outlier_suppression_plus"),
           "smoothquant": ("SmoothQuant", "smoothquant")}

INCLUDES = ("The paper's rows include CFP pre-processing and, by v4's table 6, the homologous term. Method cbq_windows has "
            "neither and learns the rounding by signround; --method cbq_iclr has both, and LoRA-Rounding.")
CBQ_ROWS = ("Rows CBQ run method cbq, the default, unless --method names another (cbq_iclr: as printed). CBQ* is "
            "cbq_star, as printed.")
ACCURACIES = ["piqa_acc", "hellaswag_acc", "arc_challenge_acc", "arc_easy_acc", "mutual_mrr", "mutual_r1", "mutual_r2",
              "ethics_acc"]
SCORES = ("Accuracies in percent: acc_norm where a task has it, MuTual's ranks, the mean of the ETHICS subsets (the paper "
          "does not say which it prints).")
PLAIN = "Accuracies in percent: plain acc, MuTual's ranks, LAMBADA's last word, the mean of the ETHICS subsets."


def paper_of(ids, model, bits, note=""):
    paper = {"tables": ids, "model": model, "bits": bits}
    return {**paper, "note": note} if note else paper


def groups_of(rows):
    """Models in the order of the paper, each once."""
    return list(dict.fromkeys(row["model"] for row in rows))


def method_row(table_id, number, row):
    label, method = METHODS[row["method"]]
    bits = "W16A16" if row["method"] == "fp" else row["bits"]
    settings = {"wbits": 16, "abits": 16, "reconstruct": "none"} if row["method"] == "fp" else {}
    if method:
        settings["method"] = method
    name = f"{row['model']} " + (label if row["method"] == "fp" else f"{bits} {label}")
    return {"name": name, "label": name, "group": row["model"], "bits": bits, "settings": settings,
            "source": [f"{table_id}/{number}"]}


def beats(rows, table_id, metrics=None):
    """CBQ against every other method at the same bits, CBQ* against CBQ, of each model."""
    trends = []
    for first in rows:
        for second in rows:
            same = first["model"] == second["model"] and first["bits"] == second["bits"]
            if not same or first["method"] in ("fp", "cbq_star"):
                continue
            if (second["method"] == "cbq" and first["method"] != "cbq") or \
                    (second["method"] == "cbq_star" and first["method"] == "cbq"):
                names = [method_row(table_id, 0, row)["name"] for row in (first, second)]
                winner, loser = METHODS[second["method"]][0], METHODS[first["method"]][0]
                trend = {"claim": f"{first['model']} {first['bits']}: {winner} beats {loser}", "rows": names}
                if metrics:
                    trend["metrics"] = metrics
                trends.append(trend)
    return trends


def methods_table(key, title, table_id, bits, columns, note, accuracy=None, ids=None):
    def make(paper):
        rows = paper[table_id]["rows"]
        table = {"key": key, "title": title,
                 "paper": paper_of(ids or [table_id], "several" if len(groups_of(rows)) > 1 else rows[0]["model"], "per row"),
                 "bits": bits, "models": groups_of(rows), "axis": ["model", "bits", "method"]}
        if columns:
            table["columns"] = columns
        if accuracy:
            table["accuracy"] = accuracy
        table["note"] = note
        table["rows"] = [method_row(table_id, i, row) for i, row in enumerate(rows)]
        metrics = [m for m in paper[table_id]["metrics"]]
        table["trends"] = beats(rows, table_id, None if metrics == ["c4_ppl", "wikitext2_ppl"] else metrics)
        return table
    return make


PREPROCESS = {"none": ("none", "no pre-processing"), "omse": ("omse", "OMSE"), "percentile": ("percentile", "percentile"),
              "outlier_suppression": ("os", "Outlier Suppression"), "smoothquant": ("smoothquant", "SmoothQuant"),
              "cfp_weight": ("cfp-w", "CFP of weights"), "cfp_activation": ("cfp-a", "CFP of activations"),
              "cfp_weight_activation": ("cfp", "CFP")}


def preprocess_rows(table_id, rows):
    made = []
    for i, row in enumerate(rows):
        name, label = PREPROCESS[row["preprocess"]]
        settings = {"preprocess": row["preprocess"]}
        if row["reconstruction"]:
            name, label = name + "+cbq", label + " + CBQ"
        else:
            settings["reconstruct"] = "none"
            label = "CFP, both" if name == "cfp" else label
        made.append({"name": name, "label": label, "settings": settings, "source": [f"{table_id}/{i}"]})
    return made


PREPROCESS_NOTE = ("'CBQ' is the method's reconstruction. The paper's includes, by v4's table 6, the homologous term, and "
                   "LoRA-Rounding; method cbq_windows has neither, --method cbq_iclr has both.")


def table_10(paper):
    return {"key": "10", "title": "Pre-processing of outliers, printed again",
            "paper": paper_of(["iclr.10"], "LLaMA2-7B", "unstated", "a reprint of table 3a under another caption: all 24 values are the same"),
            "bits": "W4A4", "axis": ["preprocess", "reconstruct"], "note": PREPROCESS_NOTE,
            "rows": preprocess_rows("iclr.10", paper["iclr.10"]["rows"]),
            "trends": [{"claim": "CFP of activations helps", "rows": ["none", "cfp-a"]},
                       {"claim": "CFP of weights adds to it", "rows": ["cfp-a", "cfp"]},
                       {"claim": "CFP beats SmoothQuant", "rows": ["smoothquant", "cfp"]},
                       {"claim": "reconstruction adds to CFP", "rows": ["cfp", "cfp+cbq"]},
                       {"claim": "CFP first beats SmoothQuant first", "rows": ["smoothquant+cbq", "cfp+cbq"]}]}


def table_v4_4(paper):
    table = table_10({"iclr.10": paper["v4.4"]})
    table.update(key="v4.4", title="Pre-processing of outliers, the shorter list",
                 paper=paper_of(["v4.4"], "LLaMA-7B", "W4A4", "the rows of ICLR's table 3a without OMSE, percentile and Outlier Suppression"))
    table["rows"] = preprocess_rows("v4.4", paper["v4.4"]["rows"])
    return table


COMPONENTS = ["quantize_weight", "quantize_activation", "gradient_based", "cross_block_dependency",
              "weight_outlier_handling", "activation_outlier_handling", "rounding_error_handling"]


def components(key, table_id, ids, note):
    def make(paper):
        rows = []
        for i, row in enumerate(paper[table_id]["rows"]):
            label, method = METHODS[row["method"]]
            method = "cbq_iclr" if row["method"] == "cbq" else method
            rows.append({"name": row["method"], "label": label, "settings": {"method": method},
                         "source": [f"{table_id}/{i}"]})
        return {"key": key, "title": "Components of the methods", "kind": "components",
                "paper": paper_of(ids, "none", "none", note), "axis": ["method"], "columns": COMPONENTS,
                "note": "Nothing is run: the marks come from the methods' files, CBQ's from cbq_iclr, which is the method as printed.",
                "rows": rows}
    return make


def hours(key, table_id, title, note):
    def make(paper):
        rows, names = [], {}
        for i, row in enumerate(paper[table_id]["rows"]):
            label, method = METHODS[row["method"]]
            size = row.get("size_column") or row["model"].split("-")[1]
            made = {"name": f"{label} {size}", "label": f"{label} {size}", "settings": {"method": method} if method else {},
                    "source": [f"{table_id}/{i}"]}
            if row["model"]:
                made["group"] = row["model"]
                made["label"] = f"{label} {row['model']}"
            rows.append(made)
            names[(row["method"], size)] = made["name"]
        sizes = ("7B", "13B", "30B", "65B")
        trends = [{"claim": f"{size}: CBQ needs less time", "rows": [names[("omniquant", size)], names[("cbq", size)]],
                   "metrics": ["time_hours"]} for size in sizes]
        if ("qllm", "7B") in names:
            trends += [{"claim": f"{size}: CBQ against QLLM", "rows": [names[("qllm", size)], names[("cbq", size)]],
                        "metrics": ["time_hours"]} for size in ("7B", "13B", "65B")]
        models = [m for m in groups_of(paper[table_id]["rows"]) if m]
        return {"key": key, "title": title, "kind": "hours",
                "paper": paper_of([table_id], "several", "weight-only" if table_id == "iclr.11" else "unstated"),
                "bits": "W4A16", "models": models, "axis": ["model", "method"], "columns": ["time_hours", "window_seconds"],
                "note": note, "rows": rows, "trends": trends}
    return make


EXTRAPOLATED = ("Our hours are extrapolated, not measured: seconds per window of the model at hand times the windows of the "
                "paper's model, by the weights of a block, by 128 segments of 2,048 tokens and by the method's own epochs.")


def table_15(paper):
    columns = [m for m in paper["iclr.15"]["metrics"] if m.find("_acc_") > 0]
    rows = [{"name": "cfp", "label": "CFP", "bits": "W4A16", "settings": {"preprocess": "cfp_weight_activation", "reconstruct": "none"},
             "source": ["iclr.15/0"]},
            {"name": "cbd", "label": "CBD", "bits": "W4A16", "settings": {"preprocess": "cfp_weight_activation"},
             "source": ["iclr.15/1"]}]
    return {"key": "15", "title": "CFP and the cross-block reconstruction", "paper": paper_of(["iclr.15"], "LLaMA-7B", "W4A16"),
            "bits": "W4A16", "axis": ["reconstruct"], "columns": columns,
            "note": "The paper does not explain its two rows. Here CFP is the pre-processing alone, CBD the reconstruction "
                    "behind it. Accuracies in percent, first acc, second acc_norm.",
            "rows": rows,
            "trends": [{"claim": "reconstruction adds to CFP", "rows": ["cfp", "cbd"],
                        "metrics": ["c4_ppl", "wikitext2_ppl"] + columns}]}


def window_rows(table_id, rows, group=None):
    made = []
    for i, row in enumerate(rows):
        window, overlap = row["window_blocks"], row["overlap"]
        overlap = 1 if overlap is None else overlap  # marked, but not how much
        label = "1 block" if window == 1 else f"{window} blocks, overlap {overlap}"
        made.append({"name": f"{window}/{overlap}", "label": label, **({"group": group} if group else {}),
                     "settings": {"window": window, "overlap": overlap}, "source": [f"{table_id}/{i}"]})
    return made


def window_trends(metrics=None):
    trends = [("two blocks beat one", ["1/0", "2/0"]), ("four blocks beat two", ["2/0", "4/0"]),
              ("overlap helps two blocks", ["2/0", "2/1"]), ("overlap helps four blocks", ["4/0", "4/1"]),
              ("with overlap, four beat two", ["2/1", "4/1"])]
    extra = {"metrics": metrics} if metrics else {}
    return [{"claim": claim, "rows": rows, **extra} for claim, rows in trends]


def table_v4_3(paper):
    return {"key": "v4.3", "title": "Window, with and without overlap",
            "paper": paper_of(["v4.3"], "LLaMA-7B", "W4A4", "rows of ICLR's table 3c"), "bits": "W2A16",
            "axis": ["window", "overlap"], "note": INCLUDES,
            "rows": window_rows("v4.3", paper["v4.3"]["rows"]), "trends": window_trends()}


def table_v1_4(paper):
    return {"key": "v1.4", "title": "Window, with and without overlap, BLOOM",
            "paper": paper_of(["v1.4"], "BLOOM-1.7B", "W8A8", "the overlap is marked only; here it is 1"), "bits": "W8A8",
            "models": ["BLOOM-1.7B"], "axis": ["window", "overlap"], "note": INCLUDES,
            "rows": window_rows("v1.4", paper["v1.4"]["rows"], "BLOOM-1.7B"), "trends": window_trends(["wikitext2_ppl"])}


ROUNDING = {
    "none": ("scales only", {"rounding": "nearest", "start": "default"}),
    "rounding": ("full matrix", {"rounding": "adaround", "parameterization": "dense", "hard_phase": 1.0}),
    "lora_rounding": ("LoRA-Rounding, rank 5", {"rounding": "lora_rounding", "parameterization": "low_rank", "rank": 5,
                                                "hard_phase": 1.0, "rate_rounding": 0.1})}
ROUNDING_NOTE = ("'full matrix' and 'LoRA' share one strategy: the forward pass rounds hard, the gradient is "
                 "straight-through. Rounding rates are ours, because at the printed 1e-4 the rounding stays at its start in "
                 "so few steps. The paper's rows include CFP pre-processing and, by v4's table 6, the homologous term; "
                 "method cbq_windows has neither, --method cbq_iclr has both.")


def table_v4_5(paper):
    rows, names = [], ["none", "full", "full-2x", "lora"]
    for i, row in enumerate(paper["v4.5"]["rows"]):
        label, settings = ROUNDING[row["method"]]
        made = {"name": names[i], "label": label, "settings": settings, "source": [f"v4.5/{i}"]}
        if row["epochs"] == 6:
            made.update(label="full matrix, epochs x 2", epochs_factor=2)
        rows.append(made)
    return {"key": "v4.5", "title": "How the rounding of the weights is learned",
            "paper": paper_of(["v4.5"], "LLaMA-7B", "W4A4", "ICLR's table 3b without AdaRound"), "bits": "W2A16",
            "axis": ["rounding", "parameterization", "hard_phase", "epochs"], "columns": ["epochs", "gpu_memory_gb"],
            "settings": {"start": "fraction", "rate_rounding": 0.05}, "note": ROUNDING_NOTE, "rows": rows,
            "trends": [{"claim": "learned rounding beats scales only", "rows": ["none", "full"]},
                       {"claim": "twice the epochs help", "rows": ["full", "full-2x"]},
                       {"claim": "low rank beats the full matrix", "rows": ["full", "lora"]},
                       {"claim": "low rank beats twice the epochs", "rows": ["full-2x", "lora"]},
                       {"claim": "low rank needs less memory", "rows": ["full", "lora"], "metrics": ["gpu_memory_gb"]}]}


def table_v1_6(paper):
    rows, short = [], {"none": "none", "rounding": "full", "lora_rounding": "lora"}
    for i, row in enumerate(paper["v1.6"]["rows"]):
        label, settings = ROUNDING[row["method"]]
        made = {"name": f"{row['bits']} {short[row['method']]}", "label": f"{row['bits']} {label}", "group": row["model"],
                "bits": row["bits"], "settings": settings, "source": [f"v1.6/{i}"]}
        if row["iterations"] == 1000:
            made["epochs_factor"] = 3
        rows.append(made)
    trends = []
    for bits in ("W4A4", "W8A8"):
        for claim, names in (("learned rounding helps", ["none", "full"]), ("low rank and full matrix", ["full", "lora"])):
            trends.append({"claim": f"{bits}: {claim}", "rows": [f"{bits} {n}" for n in names], "metrics": ["wikitext2_ppl"]})
        trends.append({"claim": f"{bits}: low rank needs less memory", "rows": [f"{bits} full", f"{bits} lora"],
                       "metrics": ["gpu_memory_gb"]})
        trends.append({"claim": f"{bits}: low rank needs fewer steps", "rows": [f"{bits} full", f"{bits} lora"],
                       "metrics": ["iterations"]})
    return {"key": "v1.6", "title": "How the rounding is learned, BLOOM", "paper": paper_of(["v1.6"], "BLOOM-7.1B", "per row"),
            "bits": "W8A8", "models": ["BLOOM-7.1B"], "axis": ["rounding", "parameterization", "epochs"],
            "columns": ["iterations", "gpu_memory_gb"], "settings": {"start": "fraction", "rate_rounding": 0.05},
            "note": "1,000 iterations against 300: here three times the epochs against one. " + ROUNDING_NOTE,
            "rows": rows, "trends": trends}


def loss_rows(table_id, rows, group=None):
    made = []
    for i, row in enumerate(rows):
        name = {"l2": "l2", "kl": "kl", "l2+kl": "both"}[row["loss"]]
        name = "homologous" if row["homologous"] else name
        label = {"l2": "L2", "kl": "KL", "both": "L2 + KL", "homologous": "L2 + KL, homologous"}[name]
        made.append({"name": name, "label": label, **({"group": group} if group else {}),
                     "settings": {"l2_weight": 0.0 if name == "kl" else 1.0, "kl_weight": 0.0 if name == "l2" else 1.0,
                                  "homologous": row["homologous"]}, "source": [f"{table_id}/{i}"]})
    return made


def loss_table(key, title, model, bits, our_bits, group=None):
    def make(paper):
        extra = {"metrics": ["wikitext2_ppl"]} if group else {}
        trends = [("KL against L2", ["l2", "kl"]), ("both beat L2 alone", ["l2", "both"]), ("both beat KL alone", ["kl", "both"]),
                  ("the homologous term helps", ["both", "homologous"])]
        return {"key": key, "title": title, "paper": paper_of([key], model, bits), "bits": our_bits,
                **({"models": [group]} if group else {}), "axis": ["l2_weight", "kl_weight", "homologous"],
                "note": "The paper's rows include CFP pre-processing and LoRA-Rounding; method cbq_windows has neither, --method cbq_iclr has both.",
                "rows": loss_rows(key, paper[key]["rows"], group),
                "trends": [{"claim": claim, "rows": rows, **extra} for claim, rows in trends]}
    return make


def table_v1_7(paper):
    rows = []
    for i, row in enumerate(paper["v1.7"]["rows"]):
        name, label = PREPROCESS[row["preprocess"]]
        rows.append({"name": f"{row['bits']} {name}", "label": f"{row['bits']} {label}", "group": row["model"], "bits": row["bits"],
                     "settings": {"preprocess": row["preprocess"]}, "source": [f"v1.7/{i}"]})
    trends = [{"claim": f"{bits}: {claim}", "rows": [f"{bits} {n}" for n in names], "metrics": ["wikitext2_ppl"]}
              for bits in ("W4A4", "W8A8")
              for claim, names in (("CFP of weights helps", ["none", "cfp-w"]), ("CFP of activations adds", ["cfp-w", "cfp"]))]
    return {"key": "v1.7", "title": "Pre-processing of outliers, BLOOM", "paper": paper_of(["v1.7"], "BLOOM-1.7B", "per row"),
            "bits": "W8A8", "models": ["BLOOM-1.7B"], "axis": ["preprocess"],
            "note": "The paper does not say whether reconstruction follows. Its last value at W8A8 is that of table v1.4 with "
                    "overlap, so it follows here.",
            "rows": rows, "trends": trends}


TABLES = [
    methods_table("1", "Zero-shot accuracy of OPT and LLaMA", "iclr.1", "W4A16", ACCURACIES, CBQ_ROWS + " " + SCORES),
    methods_table("2", "Perplexity of OPT and LLaMA", "iclr.2", "W4A16", None,
                  CBQ_ROWS + " Rows QLLM and RPTQ without values are blank in the paper."),
    components("4", "iclr.4", ["iclr.4"], "arXiv v4 prints the same as its table 8"),
    methods_table("6", "LLaMA2-7B: accuracy and perplexity", "iclr.6", "W4A16", ACCURACIES, CBQ_ROWS + " " + SCORES),
    table_10,
    hours("11", "iclr.11", "Hours to quantize, by size", EXTRAPOLATED),
    methods_table("13", "Perplexity of smaller OPT models", "iclr.13", "W4A16", None, CBQ_ROWS),
    methods_table("14", "Six bits: LLaMA2-7B and OPT-6.7B", "iclr.14", "W6A6", ACCURACIES, CBQ_ROWS + " " + SCORES),
    table_15,
    table_v4_3, table_v4_4, table_v4_5,
    loss_table("v4.6", "Terms of the reconstruction loss", "LLaMA-7B", "W4A4", "W2A16"),
    hours("v4.7", "v4.7", "Hours to quantize, QLLM included", EXTRAPOLATED + " QLLM's times are on LLaMA2; it has none at 30B."),
    methods_table("v1.1", "Zero-shot accuracy of OPT and BLOOM", "v1.1", "W4A16", ["lambada_acc"] + ACCURACIES, CBQ_ROWS + " " + PLAIN, "acc"),
    methods_table("v1.2", "Perplexity of OPT up to 30B", "v1.2", "W4A16", None, CBQ_ROWS),
    methods_table("v1.3", "LLaMA-30B: accuracy and perplexity", "v1.3", "W4A16", ACCURACIES, CBQ_ROWS + " " + SCORES),
    table_v1_4,
    loss_table("v1.5", "Terms of the reconstruction loss, BLOOM", "BLOOM-1.1B", "W8A8", "W8A8", "BLOOM-1.1B"),
    table_v1_6, table_v1_7,
    components("v1.8", "v1.8", ["v1.8"], "table 4 without RPTQ"),
]
