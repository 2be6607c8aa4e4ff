"""The columns of the csv files that steps write and read."""

from __future__ import annotations

from agave.csv_tables import Kind, Schema

BOUND_QUANTITIES = ("kl", "vae_reconstruction", "pixelcnn_reconstruction", "vae_bits_per_dim", "pixelcnn_bits_per_dim")

CELL_SCHEMA: Schema = {
    "cell": "text",
    "kind": "text",
    "kl_weight": "number",
    "levels": "integer",
    "resolution": "integer",
    "auxiliary": "boolean",
    "seed": "integer",
    "data_set": "text",
    "images": "integer",
    "precision": "text",
}
"""The first columns of every measurement of a cell: the model, and the data it was measured on."""


def _measured(*quantities: str) -> Schema:
    number: Kind = "number"
    return {name: number for quantity in quantities for name in (quantity, f"{quantity}_standard_error")}


BOUND_SCHEMA: Schema = {**CELL_SCHEMA, **_measured(*BOUND_QUANTITIES)}
"""evaluate/CELL/seed~SEED/bound.csv (one row) and tables/bounds.csv; bits/dim, the standard errors over images."""
IWAE_SCHEMA: Schema = {**CELL_SCHEMA, "samples": "integer", **_measured("elbo_bits_per_dim", "iwae_bits_per_dim")}
"""evaluate/CELL/seed~SEED/iwae.csv (one row) and tables/iwae.csv."""
GROWTH_SCHEMA: Schema = {**CELL_SCHEMA, "samples": "integer", **_measured("iwae_bits_per_dim", "gain")}
"""evaluate/CELL/seed~SEED/growth.csv, one row per number of samples."""
TABLE_1_SCHEMA: Schema = {
    "model": "text",
    "reference": "text",
    "published_bound": "text",
    "published_bits_per_dim": "text",
    "published_number": "text",
    "published_mark": "text",
    "published_data_set": "text",
    "our_model": "text",
    "our_architecture": "text",
    "our_parameters": "integer",
    "our_bound": "text",
    "our_number": "text",
    "our_bits_per_dim": "number",
    "our_standard_error": "number",
    "our_images": "integer",
    "our_samples": "integer",
    "our_seeds": "integer",
    "our_measured_on": "text",
    "our_comparable": "text",
    "our_difference_to_pixelcnn_pp": "number",
    "our_difference_to_pixelcnn_pp_low": "number",
    "our_difference_to_pixelcnn_pp_high": "number",
    "our_bits_per_dim_on_all_images": "number",
    "our_standard_error_on_all_images": "number",
    "our_all_images": "integer",
}
"""tables/table1.csv, one row per model; published numbers as they are printed."""
ORDER_SCHEMA: Schema = {
    "models": "integer",
    "images": "integer",
    "seeds": "integer",
    "rank_correlation": "number",
    "rank_correlation_low": "number",
    "rank_correlation_high": "number",
}
"""tables/order.csv, one row."""
CODEC_SCHEMA: Schema = {
    "cell": "text",
    "seed": "integer",
    "data_set": "text",
    "images": "integer",
    "exact_images": "integer",
    "bound": "text",
    "bound_bits_per_dim": "number",
    "file_bytes": "integer",
    "file_bits_per_dim": "number",
    "overhead_percent": "number",
    "images_without_latent_variables": "integer",
    "overhead_percent_of_the_others": "number",
}
"""codec/CELL/seed~SEED/codec.csv (one row)."""
IMAGE_FORMATS_SCHEMA: Schema = {
    "data_set": "text",
    "format": "text",
    "images": "integer",
    "one_file_each_bits_per_dim": "number",
    "without_header_bits_per_dim": "number",
    "one_picture_bits_per_dim": "number",
}
"""formats/formats.csv, one row per format."""
CODEC_TABLE_SCHEMA: Schema = {"coder": "text", **CODEC_SCHEMA, **IMAGE_FORMATS_SCHEMA}
"""tables/codec.csv, one row per model and then per image format."""
CLAIMS_SCHEMA: Schema = {
    "id": "text",
    "verdict": "text",
    "where": "text",
    "claim": "text",
    "basis": "text",
    "measure": "text",
    "comparison": "text",
    "value": "number",
    "low": "number",
    "high": "number",
    "accepted": "text",
    "comparison_verdict": "text",
}
"""claims/claims.csv, one row per comparison."""
POWER_SCHEMA: Schema = {
    "sample": "text",
    "images": "integer",
    "seeds": "integer",
    "energy": "number",
    "low": "number",
    "high": "number",
}
"""claims/power.csv, one row per sample that is compared with test images."""
HISTORY_SCHEMA: Schema = {
    "step": "integer",
    "kl": "number",
    "vae_reconstruction": "number",
    "pixelcnn_reconstruction": "number",
    "total": "number",
}
"""history.csv of a training."""
HISTORIES_SCHEMA: Schema = {"stage": "text", "model": "text", "seed": "integer", **HISTORY_SCHEMA}
"""trainings/history.csv, the histories of all trainings."""
