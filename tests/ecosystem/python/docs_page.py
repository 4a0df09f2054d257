"""Sends a request from the page that shows the contract, as a person would, in a headless Chromium.

Usage: docs_page.py URL, where URL is that of a server on which the user alice has one connection.
"""

import json
import sys
import tempfile

import chromium
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions
from selenium.webdriver.support.wait import WebDriverWait

PATIENCE_S = 60
OPERATION = "div[id$='Connections_GetPresence'] "


def check(browser: webdriver.Chrome, url: str) -> None:
    def find(css: str):
        clickable = expected_conditions.element_to_be_clickable((By.CSS_SELECTOR, css))
        return WebDriverWait(browser, PATIENCE_S).until(clickable, css)

    browser.get(f"{url}/docs")
    title = find("h1.title, h2.title").text.splitlines()[0]
    assert title == "Session Manager", title
    find(OPERATION + ".opblock-summary-control").click()
    find(OPERATION + ".try-out__btn").click()
    # The field already contains the example.
    user = find(OPERATION + "input[placeholder='user_id']").get_attribute("value")
    assert user == "alice", user
    find(OPERATION + ".execute").click()
    response = OPERATION + ".live-responses-table .response "
    answer = json.loads(find(response + ".response-col_description pre").text)
    assert answer == {"online": True, "connections": 1}, answer
    status = find(response + ".response-col_status").text
    assert status.startswith("200"), status
    # The page loads everything from this server, as its policy requires.
    asked = browser.execute_script(
        "return performance.getEntriesByType('resource').map(entry => entry.name)"
    )
    assert len(asked) >= 4 and all(name.startswith(f"{url}/") for name in asked), asked


with tempfile.TemporaryDirectory() as profile:
    browser = chromium.start(profile)
    try:
        check(browser, sys.argv[1])
    finally:
        browser.quit()
print("done")
