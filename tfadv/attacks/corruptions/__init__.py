"""Common corruptions (Hendrycks and Dietterich 2019, https://arxiv.org/abs/1903.12261) as attacks without eps.

`constants` has the names and the constants, and loads no TensorFlow; `noise`, `blur`, `weather` and `digital` have the
functions of images; `attack` makes attacks of them.
"""
