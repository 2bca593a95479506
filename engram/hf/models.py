"""`EngramForCausalLM`: mixin that gives memories to a causal language model's class."""

from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from torch.nn import Embedding

from engram.addressing.addresses import Addresses
from engram.addressing.same_memory import check_tokenizer, map_of
from engram.addressing.tokenizer_files import TOKENIZER, describe_tokenizer, load_tokenizer
from engram.config.engram_config import EngramConfig
from engram.config.tokenizer_path import OWN, read_from
from engram.errors import EngramError, MismatchError, MissingFileError
from engram.hf import compat
from engram.hf.arguments import bound, forward_with_memory
from engram.hf.calls import refuse_continuous_batching
from engram.hf.classes import class_after
from engram.hf.folder_module import auto_map, write_code
from engram.hf.prompts import check_prompt, keep_prompt
from engram.hf.quantising import quantised_loading
from engram.hf.tables import (
    IN_FILES,
    add_tables,
    check_saving,
    refuse_other_tables,
    refuse_shards,
    tables_on_disk,
    weights_beside_tables,
)
from engram.hf.wiring import find_layers, wire
from engram.nn import DiskEmbedding, EngramModule, FileEmbedding, MultiHeadEmbedding
from engram.nn.embedding import check_offsets
from engram.tensor_names import is_memory, tensor_name

# Modes of torch.compile that record CUDA graphs; the first is the default of a CompileConfig.
_CUDA_GRAPHS = ("reduce-overhead", "max-autotune")
# Arguments of `save_pretrained` for `push_to_hub` only.
_UPLOADING = (
    "commit_message",
    "commit_description",
    "private",
    "token",
    "revision",
    "create_pr",
    "tags",
)


class EngramForCausalLM:
    """Mixin for a causal language model's class: builds, loads and saves it with its memories."""

    config: Any
    # Name of the cache argument in the base's own `prepare_inputs_for_generation`.
    engram_generate_cache_name: ClassVar[str | None]
    # Auto classes of transformers that load the class.
    engram_auto_classes: ClassVar[tuple[str, ...]] = ("AutoModelForCausalLM",)
    # Whether its decoder gets embeddings instead of token ids.
    engram_multimodal: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        base: Any = super()
        cls.engram_generate_cache_name = compat.cache_name(base.prepare_inputs_for_generation)
        cls.forward = forward_with_memory(  # type: ignore[attr-defined]
            base.forward, tell_text=cls.engram_multimodal
        )

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)  # type: ignore[call-arg]
        settings = config.engram
        if not isinstance(settings, dict) or not {"addresses", "config"} <= settings.keys():
            raise MismatchError(
                f"The config of this {type(self).__name__} has no memory.",
                "Attach one first: engram attach MODEL -c CONFIG -o FOLDER",
            )
        addresses = Addresses.from_dict(settings["addresses"])
        wire(self, EngramConfig.from_dict(settings["config"]), addresses, IN_FILES.get())
        self._fill_token_map()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *args: Any,
        tables: Literal["ram", "disk"] = "ram",
        cache_rows: int = 0,
        **kwargs: Any,
    ) -> Any:
        """Load like transformers; a missing tensor of the memory is an error, not a warning.

        Args:
            pretrained_model_name_or_path: As transformers takes it.
            *args: As transformers takes them.
            tables: Place of the tables: ``ram`` for memory, like other weights; ``disk`` for the
                checkpoint's files, from which rows are read. See `DiskEmbedding`.
            cache_rows: Rows of each table on disk that are kept in memory.
            **kwargs: As transformers takes them.

        Raises:
            MismatchError: Tensors of the memory are missing or have the wrong shape, its constants
                differ from its config, or the tokenizer beside the weights is another one.
            UsageError: `tables` is unknown, or `cache_rows` is below 0 or given for tables in
                memory.
            MissingError: A quantised base needs a package that is not installed, or a newer
                version.
        """
        source = pretrained_model_name_or_path
        in_files = tables_on_disk(source, tables, cache_rows, kwargs)
        wants_info = kwargs.pop("output_loading_info", False)
        # Wrong shapes are reported below, with their names.
        may_differ = kwargs.pop("ignore_mismatched_sizes", False)
        kwargs |= {"ignore_mismatched_sizes": True, "output_loading_info": True}
        base = class_after(cls, EngramForCausalLM)
        with (
            bound(IN_FILES, in_files),
            quantised_loading(base, cls.config_class, source, kwargs),  # type: ignore[attr-defined]
        ):
            model, info = super().from_pretrained(  # type: ignore[misc]
                source, *args, **kwargs
            )
        wrong = [f"{name} is missing" for name in info["missing_keys"] if is_memory(name)]
        wrong += [
            f"{name} is {list(stored)}, not {list(expected)}"
            for name, stored, expected in info["mismatched_keys"]
            if is_memory(name) or not may_differ
        ]
        if wrong:
            raise MismatchError(
                f"{len(wrong)} tensors are missing or have another shape: {sorted(wrong)[0]}.",
                f"Check the folder: engram verify {source}",
                tensors=sorted(wrong),
            )
        model.check_constants()
        if source is not None:
            model._check_tokenizer(Path(source))
        return (model, info) if wants_info else model

    @staticmethod
    def _load_pretrained_model(
        model: Any, state_dict: Any, checkpoint_files: Any, *args: Any, **kwargs: Any
    ) -> Any:
        load = compat.weight_loader(super(EngramForCausalLM, type(model)))
        tables = model._tables_on_disk()
        if tables and state_dict is not None:
            refuse_other_tables(state_dict, "The state dict")
        if not tables or state_dict is not None:
            return load(model, state_dict, checkpoint_files, *args, **kwargs)
        with weights_beside_tables(checkpoint_files, tables.values()) as weights:
            return load(model, weights, checkpoint_files, *args, **kwargs)

    def _tables_on_disk(self) -> dict[str, DiskEmbedding | FileEmbedding]:
        modules = self.named_modules()  # type: ignore[attr-defined]
        kinds = DiskEmbedding | FileEmbedding
        return {f"{name}.weight": it for name, it in modules if isinstance(it, kinds)}

    @property
    def engram_decoder(self) -> Any:
        """The module that hashes token ids; in some families `get_decoder` returns another one."""
        return find_layers(self)[0]

    @property
    def engram_addresses(self) -> Addresses:
        """The memory's constants, without their token map."""
        return cast(Addresses, self.engram_decoder.engram_ids.addresses)

    def fill_token_map(self, tokenizer: Any) -> None:
        """Fill the token map of a model that was made from its config, not loaded.

        For a layout that hashes raw ids, which has no token map, the tokenizer is only read.

        Args:
            tokenizer: The tokenizer of the memory: a folder, a tokenizer.json, ``package:NAME``, a
                hub id, a `TokenizerFile`, a transformers tokenizer or a `tokenizers.Tokenizer`.

        Raises:
            MissingFileError: There is no such tokenizer.
            CorruptFileError: One of its files cannot be read.
            MismatchError: It is not the memory's tokenizer.
            UsageError: It is none of these, or a tokenizer without a tokenizer.json.
        """
        described = describe_tokenizer(tokenizer)
        token_map = self.engram_decoder.engram_token_map
        if token_map is not None:
            token_map.copy_(torch.from_numpy(map_of(self.engram_addresses, described)))

    def _fill_token_map(self) -> None:
        """Fill the token map from the config's own folder, unless weights will be loaded.

        `from_pretrained` builds models on the meta device; models built elsewhere are trained from
        scratch. Only local files are read. Without them the first call reports what is missing.
        """
        decoder = self.engram_decoder
        token_map = decoder.engram_token_map
        if token_map is None or token_map.device.type == "meta":
            return
        missing = []
        for source in _tokenizers_here(self.config):
            try:
                self.fill_token_map(source)
            except MissingFileError as error:
                missing.append(error.message)
            except EngramError as error:
                decoder.engram_ids.not_filled = error.message
                return
            else:
                return
        decoder.engram_ids.not_filled = " ".join(missing) or "The config names none."

    def check_constants(self) -> None:
        """Compare every loaded constant with the config; transformers does not call load hooks.

        Raises:
            MismatchError: One of them differs: the model would read wrong rows.
        """
        self.check_token_map()
        for name, module in self.named_modules():  # type: ignore[attr-defined]
            if isinstance(module, MultiHeadEmbedding):
                check_offsets(module, {f"{name}.offsets": module.offsets}, f"{name}.")

    def check_token_map(self) -> None:
        """Compare the loaded token map with the fingerprint.

        Raises:
            MismatchError: It belongs to another tokenizer.
        """
        decoder = self.engram_decoder
        token_map = decoder.engram_token_map
        if token_map is not None and token_map.device.type != "meta":
            decoder.engram_ids.check(token_map)

    def _check_tokenizer(self, folder: Path) -> None:
        """Compare the tokenizer beside the weights, if there is one, with that of the memory."""
        addresses = self.engram_addresses
        if addresses.map_sha256 is not None and (folder / TOKENIZER).is_file():
            check_tokenizer(addresses, load_tokenizer(folder))

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """Save like transformers, with the small module that `trust_remote_code` loads.

        Tables on disk are copied; a PEFT adapter is saved without them. Rows of tables that are
        trained in files have to be committed first.

        Raises:
            InputError: An option cannot be combined with tables on disk, or rows of tables in files
                are not committed.
            UsageError: Processes share the tables, see `ShardedEmbedding`.
        """
        tables, whole = self._tables_on_disk(), not compat.has_peft_adapter(self)
        if whole:
            refuse_shards(self)  # type: ignore[arg-type]
        if tables:
            check_saving(kwargs, tables.values() if whole else ())
        push = kwargs.pop("push_to_hub", False)
        repo_id = kwargs.pop("repo_id", None) or Path(save_directory).name
        uploading = {name: kwargs.pop(name) for name in _UPLOADING if name in kwargs}
        others = getattr(self.config, "auto_map", None) or {}
        self.config.auto_map = {**others, **auto_map(type(self.config), type(self))}
        # The saved folder no longer contains the base's own files, so detaching is not possible.
        base = {**self.config.engram["base"], "files": None}
        _, layers, path = find_layers(self)
        saved, first = path, self.engram_addresses.layer_ids[0]
        if kwargs.get("save_original_format", True):
            # Tensors are saved under the names of the files that they were loaded from.
            part, tensor = next(layers[first].engram.named_parameters())
            place = tensor_name("", first, part)
            name = next(iter(compat.revert_weight_conversion(self, {path + place: tensor})))
            saved = name.removesuffix(place)
        # Loading cast tables in memory with the rest of the model.
        memory = {**self.config.engram["config"]}
        heads = (it for it in self.modules() if isinstance(it, MultiHeadEmbedding))  # type: ignore[attr-defined]
        dtypes = [it.embedding.weight.dtype for it in heads if isinstance(it.embedding, Embedding)]
        if dtypes:
            memory["table_dtype"] = str(dtypes[0]).removeprefix("torch.")
        anew = {"base": base, "config": memory, "layers_path": saved}
        self.config.engram = self.config.engram | anew
        result = super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]
        if tables and whole and kwargs.get("is_main_process", True):
            renamed = {saved + name.removeprefix(path): it for name, it in tables.items()}
            add_tables(Path(save_directory), renamed)
        write_code(self, Path(save_directory))
        if push and kwargs.get("is_main_process", True):
            # Only when the folder is complete; pushing saves once more, to its own folder.
            self.push_to_hub(repo_id, **uploading)  # type: ignore[attr-defined]
        return result

    def prepare_inputs_for_generation(
        self,
        input_ids: Any,
        *args: Any,
        inputs_embeds: Any = None,
        attention_mask: Any = None,
        engram_input_ids: Any = None,
        hash_ids: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Prepare like transformers, and keep the inputs of the memory.

        They are the 2-D mask, which static caches turn into a 4-D one; the ids of a prompt given as
        embeddings, or `engram_input_ids` in their place; and the hash ids of the prompt.
        """
        compat.rename_cache(kwargs, self.engram_generate_cache_name)
        inputs = super().prepare_inputs_for_generation(  # type: ignore[misc]
            input_ids, *args, inputs_embeds=inputs_embeds, attention_mask=attention_mask, **kwargs
        )
        keep_prompt(inputs, input_ids, inputs_embeds is not None, engram_input_ids, hash_ids)
        made = inputs.get("attention_mask")
        if attention_mask is None:
            if made is not None:
                inputs["engram_mask"] = False  # transformers made a 4-D mask without any padding
        elif attention_mask.ndim == 2 and getattr(made, "ndim", None) != 2:
            inputs["engram_mask"] = attention_mask
        return inputs

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generate like transformers, without recording CUDA graphs.

        By default transformers compiles calls with static caches on a GPU into CUDA graphs, whose
        outputs, among them the memory's past, the next step overwrites. A `CompileConfig` of
        another mode is honoured. The cache may be passed under either of its names. `hash_ids` are
        those of the prompt ``[B, T, L, C]``.

        Raises:
            InputError: `hash_ids` do not fit the prompt, or are combined with an `assistant_model`,
                which has another memory; or `engram_mask` is given instead of `attention_mask`.
        """
        compat.rename_cache(kwargs, self.engram_generate_cache_name)
        check_prompt(args, kwargs, self.engram_addresses)
        given = kwargs.get("generation_config") or self.generation_config  # type: ignore[attr-defined]
        asked = kwargs.get("compile_config") or given.compile_config
        if asked is None or asked.mode in _CUDA_GRAPHS:
            kwargs["disable_compile"] = True
        return super().generate(*args, **kwargs)  # type: ignore[misc]

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> Any:
        """Raise an error for continuous batching before it starts.

        Raises:
            InputError: Always.
        """
        refuse_continuous_batching()

    def _init_weights(self, module: Any) -> None:
        super()._init_weights(module)  # type: ignore[misc]
        if isinstance(module, EngramModule):
            module.reset_parameters("identity")


def _tokenizers_here(config: Any) -> list[Path]:
    """List possible paths of a model's tokenizer: beside its config, or in its memory's config.

    They are paths since names would be looked up on the hub.
    """
    origin = Path(config.name_or_path)
    named = config.engram["config"].get("tokenizer")
    found = [origin.parent if origin.is_file() else origin] if config.name_or_path else []
    if named and found:
        return [*found, Path(read_from(named, found[0]))]
    return [*found, Path(named)] if named and named != OWN else found
