"""The pocket scale: a drawn world and the tiny CLIPs pre-trained on it.

`world` says what there is and samples it, `drawing` turns samples into pixels, `captions` into words,
`datasets` cuts few-shot data sets out of it, `model` builds the two backbones, `pretrain` trains them.
"""
