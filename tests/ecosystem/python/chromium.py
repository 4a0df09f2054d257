"""A headless Chromium, without a proxy and without background activity."""

import os
import shutil

from selenium import webdriver


def start(profile: str, *arguments: str) -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in (
        "--headless",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--no-proxy-server",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1200,1600",
        f"--user-data-dir={profile}",
        *arguments,
    ):
        options.add_argument(argument)
    # Chromium does not start its sandbox for root.
    if os.getuid() == 0:
        options.add_argument("--no-sandbox")
    driver = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    return webdriver.Chrome(options=options, service=driver)
