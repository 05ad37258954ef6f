"""What is doubtful in the transcription of the paper's tables, in our words.

(table of the paper's data, place) -> (the other reading, why). The data names the place and the value
that was kept. A doubt about several tables stands under each of them.
"""

DIGIT = "the scan of v4 loses or swaps digits"
UNKNOWN = "not known"

DOUBTS = {
    ("iclr.1", "OPT-30B W4A16 omniquant arc_challenge_acc"): ("37.08", DIGIT + "; ICLR is clear"),
    ("iclr.1", "OPT-30B W2A16 omniquant arc_challenge_acc"): ("35.08", DIGIT + "; ICLR is clear"),
    ("iclr.1", "OPT-30B W4A8 omniquant arc_challenge_acc"): ("37.01", DIGIT + "; ICLR is clear"),
    ("iclr.1", "OPT-30B W4A8 rptq ethics_acc"): ("39.21", DIGIT + "; the neighbours are 59.17 and 59.23"),
    ("iclr.1", "OPT-30B W4A4 cbq piqa_acc"): ("75.80", DIGIT + "; ICLR is clear"),
    ("iclr.1", "OPT-66B W4A8 omniquant arc_easy_acc"): ("65.80", DIGIT + "; ICLR is clear"),
    ("iclr.1", "OPT-66B W4A8 rptq arc_challenge_acc"): ("38.80", DIGIT + "; ICLR is clear"),
    ("iclr.1", "OPT-66B W4A8 rptq ethics_acc"): ("36.95", DIGIT + "; 36.95 is far from its neighbours"),
    ("iclr.1", "LLAMA1-30B W2A16 omniquant mutual_r2"): ("74.9?", "the scan of v4 lost the last digit"),
    ("iclr.1", "LLAMA1-30B W2A16 cbq arc_challenge_acc"): ("4?.93", "the scan of v4 lost a digit"),
    ("iclr.1", "LLAMA1-65B W4A8 omniquant hellaswag_acc"): ("78.9?", "the scan of v4 lost the last digit"),
    ("iclr.1", "LLAMA1-65B W4A4 omniquant arc_challenge_acc"): ("35.02", DIGIT + "; ICLR is clear"),
    ("iclr.1", "LLAMA1-65B W4A4 qllm arc_challenge_acc"): ("30.68", DIGIT + "; ICLR is clear"),
    ("iclr.1", "LLAMA1-65B W2A16 cbq_star piqa_acc, hellaswag_acc"):
        ("none", "ICLR's text lost the row's name and these cells; they come from v4 alone"),
    ("iclr.1", "LLAMA1-65B W4A8 cbq arc_challenge_acc"): ("none", "ICLR's text lost the cell; it comes from v4 alone"),
    ("iclr.1", "LLAMA1-65B W4A8 cbq hellaswag_acc, arc_easy_acc"):
        ("79 30, 58 12", "ICLR's text lost the decimal points; v4 has them"),
    ("iclr.1", "LLAMA1-65B block label"): ("none", "a rotated label that only v4 shows well"),
    ("iclr.2", "OPT-30B W4A4 cbq c4_ppl"): ("none", "ICLR's text lost the cell; it comes from v4 alone"),
    ("iclr.2", "LLAMA1-65B W2A16 omniquant wikitext2_ppl"): ("6.1", "the scan of v4 drops a zero"),
    ("iclr.2", "LLAMA1-65B W2A16 cbq wikitext2_ppl"): ("5.5", "the scan of v4 drops a digit"),
    ("iclr.3a", "cfp_weight_activation with reconstruction"):
        ("13.20 and 10.05", "two damaged lines; tables 10 and v4.4 print the row well, and it is the default of 3b, 3c and 5"),
    ("iclr.3c", "C4 column, all rows"):
        ("none", "the columns ran together; the values are put in place by tables 7 and v4.3, which are equal"),
    ("iclr.3c", "4 blocks, overlap 1, gpu_memory_gb"):
        ("none", "two rows share one visible 39; table 9 has 39 for every row of four blocks"),
    ("iclr.6", "W3A16 pair"): ("W2A16", "the label is damaged; the values lie between those of W4A16 and W2A16"),
    ("iclr.6", "W6A6 pair"): ("W646", "the label is damaged; table 14 prints the same rows as W6A6"),
    ("iclr.14", "LLAMA2-7B W6A6 ethics_acc and c4_ppl"):
        ("52.627.48, 53.027.24", "two cells ran together; they are divided as in table 6"),
    ("v4.3", "1 block row"): ("1457, 1198", "the scan lost the decimal points; table 3c agrees"),
    ("v4.4", "smoothquant without reconstruction; cfp_activation c4; last row c4"):
        ("3321, 2526, 2348, 1329", "the scan lost the decimal points; table 3a agrees"),
    ("v4.5", "first rows"): ("1432, 1146, 1386", "the scan lost the decimal points; table 3b agrees"),
    ("v4.7", "omniquant 7B/13B/30B time_hours"):
        ("L6h, 33h, 73h", "read to fit the sizes and the clear 14.4 h; nothing else prints these times, so they are the least certain of all"),
    ("v4.7", "cbq 7B/13B/30B time_hours"): ("09h, 145, 21h", "the scan lost the decimal points; table 11 agrees"),
    ("iclr.13", "OPT-1.3B/2.7B gptq c4_ppl"): ("1557, 1375", "the scan of v4 lost the decimal points; ICLR and v1 agree"),
    ("iclr.4", "quantize_weight/quantize_activation for rptq, omniquant, smoothquant, qllm, cbq"):
        ("none", "the pairs of check marks are damaged; the prose and table v1.8 have both, RPTQ by the prose alone"),
    ("iclr.8", "table number"): ("none", "the caption is missing; the number follows from the table's place"),
    ("iclr.10", "model"):
        ("LLAMA-7B W4A4", "all values are those of table 3a, while table 6 has 12.56 and 11.32 for LLaMA2-7B at W4A4: "
         "caption or contents are wrong, so this is no second model's evidence"),
    ("iclr.11", "bits of the column"): ("W4A16", "the text says weight-only, the abstract 4 bits for 65B, the table nothing"),
    ("iclr.15", "meaning of 'x / y' accuracy cells"):
        ("acc, then acc_norm", "there is no legend; the second values are as high as other tables' scores, the first ones are not"),
    ("iclr.15", "method names"): ("CFP alone, all of CBQ", "the caption speaks of CFP only and explains no row"),
    ("v1.1", "lambada_acc"): ("perplexity", "the text counts LAMBADA among the perplexities, but 68.69 for the original model "
                              "and 0 to 1.4 at W4A4 can only be accuracies"),
    ("v1.1/v1.3", "Mutual column order"):
        ("MRR, R@1, R@2", "ICLR prints one of these triples in another order, and R@1 <= MRR <= R@2 holds in this one"),
    ("v1.7", "method cfp_weight_activation"): ("OPL-Activation", "a name that stands nowhere else, taken for CFP-Activation"),
    ("v4.3", "overlap size where overlap is marked"): ("none", "v4 does not state it; table 3c prints the same values with overlap 1"),
    ("v4.3-v4.6", "bits"): ("none", "v4 does not state them; the same values are W4A4 in ICLR"),
    ("v4.7", "qllm 65B-column model"): ("65B", "a footnote says LLaMA2, which has no 65B"),
    ("iclr.1", "OPT-30B W2A16 omniquant mutual_*"):
        (UNKNOWN, "impossible with four choices: these recalls bound MRR by 63.72 and 66.33; R@2 is also that of the row above"),
    ("v1.1", "OPT-30B W4A4 cbq mutual_*"): (UNKNOWN, "MRR, R@1, R@2; these recalls bound MRR by 59.34 and 62.21"),
    ("v1.1", "OPT-13B W4A4 cbq mutual_*"): (UNKNOWN, "MRR, R@1, R@2; these recalls bound MRR by 50.67 and 55.16"),
    ("iclr.1", "OPT-66B W2A16 gptq hellaswag_acc"): (UNKNOWN, "OPT-30B's value, while the other tasks are near chance: probably a copy"),
    ("iclr.1", "LLAMA1-30B W4A16 omniquant/cbq arc_challenge_acc"):
        (UNKNOWN, "above the original model's 45.39; table v1.3 has the same 46.26 beside 46.75, so the scoring may differ within the block"),
    ("iclr.1", "OPT-30B W2A16 cbq ethics_acc"): (UNKNOWN, "below GPTQ's 52.15 and OmniQuant's 53.64 in both versions"),
    ("iclr.2", "W4A16 cbq wikitext2_ppl, OPT-30B and OPT-66B"):
        (UNKNOWN, "set in bold, but GPTQ's 9.63 and OmniQuant's 9.37 are lower in both versions"),
    ("iclr.6", "W2A16 cbq ethics_acc"): ("52.xx", "far above the original model's 52.63; printed once"),
    ("iclr.13/v1.2", "OPT-2.7B cbq wikitext2_ppl"):
        (UNKNOWN, "at W4A16 worse than GPTQ's 12.82, at W2A16 out of line with the other sizes; the same in all versions"),
    ("v1.1", "OPT-30B W8A8 os_plus and omniquant mutual_r1, ethics_acc"): (UNKNOWN, "equal for two methods: possibly a copy"),
    ("iclr.9", "2 blocks, overlap 1, time_hours"):
        (UNKNOWN, "longer than every row of four blocks, while table 11 has 0.9 h for CBQ on 7B"),
    ("iclr.9", "1 block, overlap 0 ppl"):
        (UNKNOWN, "exactly OmniQuant at W2A16 on LLaMA2-7B in table 6: possibly borrowed"),
    ("iclr.5 vs v4.6", "l2+kl row"):
        ("13.55 and 10.88", "v4 prints the kept values with the homologous term only; ICLR drops the term's column and keeps "
         "them, so ICLR's rows of 13.29 and 10.63 may all include it"),
    ("iclr.5/v4.6", "l2 vs kl order"): ("swapped", "the text says that KL beats L2; on C4 it is worse by 0.02 in both versions"),
    ("iclr.11 vs v4.7", "omniquant times"):
        ("1.6, 3.3, 7.3, 14.4", "table 11 and v4.7 differ, CBQ's times do not; ICLR says weight-only, v4 says nothing"),
    ("v1.2 vs iclr.2", "OPT-30B"):
        ("10.73/9.65, 12.01/10.51, 11.00 in ICLR and v4", "a revision between the versions: both are clear"),
    ("v1.1, v1.3 vs iclr.1", "FP accuracy of the same model"):
        ("72.27, 65.40 and 45.39, 58.92 in ICLR", "the scoring differs, probably plain against length-normalized accuracy "
         "(v1.3 mixes them): do not compare accuracies of v1 with later ones"),
    ("v1.3 vs iclr.1/iclr.2", "LLaMA-30B W4A8"):
        ("6.25 and 78.98 in ICLR and v4", "a revision: v1 quantizes per tensor, ICLR per channel and per token"),
}
