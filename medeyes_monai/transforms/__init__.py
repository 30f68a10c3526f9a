"""MONAI transforms that cut regions out of images and make pictures of them."""
