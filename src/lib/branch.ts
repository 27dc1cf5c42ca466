/**
 * What is below a key in a map of maps, made when it is not there. Things are found by several keys in it without a
 * text being made of them for each look-up, which costs more than all of the maps.
 */
export function branch<K, L, V>(map: Map<K, Map<L, V>>, key: K): Map<L, V> {
  const known = map.get(key);
  if (known !== undefined) {
    return known;
  }
  const made = new Map<L, V>();
  map.set(key, made);
  return made;
}
