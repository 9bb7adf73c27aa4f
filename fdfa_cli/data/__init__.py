"""Data sets: one file each, registered by name. Splits and batches are on the device, images as uint8."""

from fdfa_cli.data.base import Data, Splits, Status, Subset, status
from fdfa_cli.data.root import data_root

__all__ = ["Data", "Splits", "Status", "Subset", "data_root", "status"]
