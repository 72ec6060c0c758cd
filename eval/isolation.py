"""Keeps what VLMEvalKit does to a process away from the rest of it.

It is written as a program: importing it turns certificate checks and gradients off, reseeds random generators,
configures logging and rewrites the environment. Everything of that is undone here.
"""

import contextlib
import io
import logging
import multiprocessing
import os
import random
import ssl
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image


@contextlib.contextmanager
def process_unchanged() -> Iterator[None]:
    """Put back whatever the block changes in the state that a whole process shares."""
    root, environment, folder = logging.getLogger(), dict(os.environ), os.getcwd()
    handlers, level, disabled = list(root.handlers), root.level, logging.root.manager.disable
    filters: list[Any] = warnings.filters  # type: ignore[assignment]
    filters_before, search_path = list(filters), list(sys.path)
    contexts, pixels = ssl._create_default_https_context, Image.MAX_IMAGE_PIXELS
    gradients, threads, generator = torch.is_grad_enabled(), torch.get_num_threads(), torch.get_rng_state()
    python_generator, numpy_generator = random.getstate(), np.random.get_state()
    start_method = multiprocessing.get_start_method(allow_none=True)
    backend = _matplotlib_backend()
    try:
        yield
    finally:
        ssl._create_default_https_context = contexts
        Image.MAX_IMAGE_PIXELS = pixels
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        root.handlers[:], root.level, logging.root.manager.disable = handlers, level, disabled
        filters[:], sys.path[:] = filters_before, search_path
        torch.set_grad_enabled(gradients)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.set_rng_state(generator)
        random.setstate(python_generator)
        np.random.set_state(numpy_generator)
        if multiprocessing.get_start_method(allow_none=True) != start_method:
            multiprocessing.set_start_method(start_method, force=True)
        if backend is not None and _matplotlib_backend() != backend:
            sys.modules["matplotlib"].rcParams["backend"] = backend


def _matplotlib_backend() -> Any:
    """The backend chosen so far, without letting matplotlib choose one; None where matplotlib is not loaded."""
    module = sys.modules.get("matplotlib")
    return dict.__getitem__(module.rcParams, "backend") if module is not None else None


@contextlib.contextmanager
def replaced(module: ModuleType, **names: Any) -> Iterator[None]:
    """Let a module's names mean something else within the block, those that it has."""
    before = {name: getattr(module, name) for name in names if hasattr(module, name)}
    for name in before:
        setattr(module, name, names[name])
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


@contextlib.contextmanager
def variables(**values: str) -> Iterator[None]:
    """Set environment variables within the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Swallow progress bars, prints and log lines; errors still come as exceptions."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(before)
