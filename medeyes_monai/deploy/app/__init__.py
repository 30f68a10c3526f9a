"""The application for MONAI Deploy: the folder that ``monai-deploy package`` is given."""
